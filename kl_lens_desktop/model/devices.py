"""Which of torch's devices there are here."""

from kl_lens_desktop.errors import InputError


def check_device(device: str) -> None:
    """Raise `InputError` unless torch can compute on `device`: ``cpu``, ``cuda``, ``xpu:1``, …"""
    if device == "cpu":
        return  # known without torch, which takes seconds to import
    import torch

    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "xpu": torch.xpu.device_count()}
    kind, _, number = device.partition(":")
    if device.endswith(":") or not (number or "0").isdecimal() or int(number or 0) >= there.get(kind, 0):
        raise InputError(
            f"Cannot measure on {device}",
            "torch finds no such device on this computer",
            f"Choose one of {', '.join(name for name, count in there.items() if count)}",
        )
