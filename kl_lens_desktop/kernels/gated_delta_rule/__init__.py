"""The gated delta rule with one decay a head (arXiv 2412.06464)."""
