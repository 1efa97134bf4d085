"""Training: loop.py reads top to bottom; the other files are its parts."""
