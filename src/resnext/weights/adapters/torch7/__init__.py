"""TODO torch7."""
