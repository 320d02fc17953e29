"""The gated linear recurrence of Griffin (arXiv 2402.19427)."""
