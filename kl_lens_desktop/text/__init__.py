"""Texts: the bundled ones and a person's own, in windows and passages of tokens."""
