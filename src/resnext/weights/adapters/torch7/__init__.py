"""Torch7 module trees, read as networks."""
