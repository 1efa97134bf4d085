"""Image transforms for training and evaluation."""
