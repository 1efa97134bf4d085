"""Training: loop.py has the training loop, the other files its parts."""
