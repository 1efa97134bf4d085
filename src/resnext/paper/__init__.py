"""The published numbers as data, and what is known of the files they belong to."""
