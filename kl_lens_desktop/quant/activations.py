"""In which groups a device may quantize activations beside weights of given formats."""

from collections.abc import Iterable

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.quant.formats import Format, group_size

USUAL = 32  # of OpenVINO's CPU plugin, where nobody asks it otherwise
GROUPS = USUAL, 64, 128
LARGEST = -1  # in place of a size: the largest of `GROUPS` that all weights allow


def check_groups(size: int, weights: Iterable[tuple[int, Format]]) -> None:
    """Raise `InputError` unless weights can be multiplied with activations quantized in groups of `size`.

    Parameters
    ----------
    weights : iterable of (int, Format)
        Input channels and format of each.
    """
    for channels, fmt in weights:
        if not _fits(size, channels, fmt):
            raise InputError(
                f"Cannot quantize activations in groups of {size}",
                f"{fmt.label} of {channels:,} channels has groups of {group_size(fmt, channels)}",
                "Choose smaller groups, or formats with larger ones",
            )


def largest_group(weights: Iterable[tuple[int, Format]]) -> int:
    """The largest of `GROUPS` in which activations may be quantized, 0 where the `USUAL` is best left alone.

    Parameters
    ----------
    weights : iterable of (int, Format)
        Input channels and format of each.
    """
    given = list(weights)
    if all(fmt.scheme == "fp16" for _, fmt in given):
        return 0
    fitting = (size for size in GROUPS if size > USUAL and all(_fits(size, *each) for each in given))
    return max(fitting, default=0)


def _fits(size: int, channels: int, fmt: Format) -> bool:
    return fmt.scheme == "fp16" or group_size(fmt, channels) % size == 0
