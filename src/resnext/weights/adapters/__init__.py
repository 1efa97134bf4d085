"""Adapters: the tensor names of other libraries, translated to ours."""
