"""Architectures that transformers has not: our own code, from what their authors published. Needs torch."""
