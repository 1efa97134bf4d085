"""Fast paths for grouped networks: packed convolutions, fused kernels and autotuning. Does not import ``model``."""
