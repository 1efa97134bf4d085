"""A pickle reader that only builds values from a table of allowed names."""
