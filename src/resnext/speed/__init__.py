"""What makes cardinality cheap: packed convolutions, fused kernels, and the choices between ways. Below ``model``."""
