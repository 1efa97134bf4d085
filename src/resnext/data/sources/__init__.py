"""Data sources: one file for each kind of data set, and their registry."""
