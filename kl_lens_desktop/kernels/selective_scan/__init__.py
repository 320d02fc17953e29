"""Mamba-1's selective scan (arXiv 2312.00752)."""
