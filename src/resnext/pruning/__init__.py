"""Cardinality as a dial: take paths away from a trained network (prune), or add some (grow)."""
