"""TODO decode."""
