"""Judging a trained network: exact sums, tables, pictures, the report, and predictions on new images."""
