"""TODO readers."""
