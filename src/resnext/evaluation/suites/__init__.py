"""Other test sets: ReaL labels, ImageNet-C and generated corruptions."""
