"""Mamba-2's scan (arXiv 2405.21060)."""
