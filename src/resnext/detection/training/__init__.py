"""Training of detectors: the task, its step, and what a run starts from."""
