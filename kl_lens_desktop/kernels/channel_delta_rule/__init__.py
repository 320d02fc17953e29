"""The delta rule with one decay for each channel of the keys (Kimi Delta Attention, arXiv 2510.26692)."""
