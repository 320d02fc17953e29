"""Mixture-of-experts layers, of which a token meets only its chosen experts."""
