"""Ratios measured in one run; nothing here asserts anything about time."""
