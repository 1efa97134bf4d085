"""Benchmarks of speed and memory: our code and other libraries, timed in turn in one process."""
