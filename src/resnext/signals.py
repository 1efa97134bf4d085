"""The signals that ask a run to save and stop."""

INTERRUPTS = ("SIGINT", "SIGTERM")  # Ctrl-C; kill, schedulers, machines that go down
NOTICES = ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")  # a lost terminal; what Slurm, LSF and SGE send before a limit
