"""Documents as a stranger may send them: small, of the right form, with whatever names one likes."""

from typing import Any

from kl_lens_desktop.quant.formats import parse_format, stored_bytes

NAMES = (
    "[/1]",
    "[int4]",
    "[bold red]x",
    "<b>x</b><img src='file:///etc/passwd'>",
    "\x1b]0;x\x07\x1b[2J",
    "two\nkl-lens: all is well",
    "\u202egnp.elif",
    "\x9b31mred",
    "=cmd|'/c calc'!A1",
    "R&D \ud800",
)
SHA256 = "a" * 64


def estimate(mean: float) -> dict[str, Any]:
    return {"mean": mean, "se": 0.1 * abs(mean), "n": 512}


def scores_document(formats: tuple[str, ...] = ("int4_sym_g64", "int8_sym")) -> dict[str, Any]:
    """Scores of a few weights and a convolution."""
    shape, kinds = [64, 128], ("ssm", "attention", "mlp")
    about = [
        {"name": f"model.layers.{n}.w.weight", "kind": kinds[n], "block": n, "shape": shape,
         "parameters": 64 * 128, "uses": 1}
        for n in range(3)
    ]  # fmt: skip
    entries = [
        {
            "weight": weight["name"], "kind": weight["kind"], "block": weight["block"], "format": name,
            "bytes": stored_bytes(shape, parse_format(name)), "settled": False,
            "kl_pq": estimate(0.01 / parse_format(name).bits), "kl_qp": estimate(0.01), "mse": estimate(0.1),
            "sqnr_db": estimate(20.0), "delta_ce": estimate(0.01), "top1_agreement": estimate(0.9),
        }
        for weight in about
        for name in formats
    ]  # fmt: skip
    kept = {"name": "model.conv1d.weight", "kind": "conv", "block": 0, "shape": [8, 1, 4], "parameters": 32}
    return {
        "schema": "kl-lens/scores/1",
        "model": {"id": "a model", "revision": None, "sha256": SHA256},
        "text": {"name": "t.txt", "sha256": SHA256, "tokens": 512, "window": 128},
        "weights": [*about, {**kept, "uses": 1}],
        "kept_bytes": 64,
        "settings": {},
        "environment": {},
        "entries": entries,
        "unmeasurable": [],
    }


def spread(mean: float, rounds: int = 4) -> dict[str, Any]:
    each = [mean * (1 + 0.01 * (-1) ** k) for k in range(rounds)]
    return {"mean": mean, "sd": 0.05 * mean, "n": 3 * rounds, "median": mean, "rounds": each}


def bench_row(variant: str, device: str = "CPU", speed: float = 100.0, rounds: int = 4) -> dict[str, Any]:
    return {
        "variant": variant, "device": device, "status": "ok", "reason": None, "session": "s",
        "size_bytes": 8_000_000, "tokens_per_s": spread(speed, rounds),
        "ttft_ms": spread(2000 / speed, rounds),
        "prefill_tokens_per_s": spread(20 * speed, rounds), "perplexity": estimate(70.0),
        "kl_to_fp16": estimate(0.001), "peak_rss_mb": 450.0, "precision": "bf16", "backend": "SDPA",
    }  # fmt: skip


def bench_document(rows: list[dict[str, Any]], name: str = "A processor") -> dict[str, Any]:
    """A bench file in which whatever has a name is called `name`."""
    device = {"name": "CPU", "full_name": name, "available": True, "reason": name, "warning": name}
    return {
        "schema": "kl-lens/bench/1",
        "environment": {
            "created": name, "os": name, "cpu": name, "cores": 2, "ram_mb": 16384.0, "power": "mains",
            "python": name, "packages": {name: name},
            "devices": [device],
            "text": {"name": name, "sha256": SHA256, "tokens": 8192, "window": 256},
            "settings": {name: name},
        },
        "rows": rows,
    }  # fmt: skip
