"""Rounding by data from so little text that a test has time for it."""

import pytest


def read_little(patch: pytest.MonkeyPatch, fit: int = 512, judge: int = 128) -> None:
    """Let weights be fitted to `fit` tokens and judged by `judge`, where a person's are by many more."""
    patch.setattr("kl_lens_desktop.text.windows.FIT_TOKENS", fit)
    patch.setattr("kl_lens_desktop.text.windows.JUDGE_TOKENS", judge)
