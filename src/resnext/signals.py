"""Signals that make a run save a checkpoint and stop."""

INTERRUPTS = ("SIGINT", "SIGTERM")  # Ctrl-C; kill, schedulers, shutdown
NOTICES = ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")  # terminal closed; time limit of Slurm, LSF or SGE is near
