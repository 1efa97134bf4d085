"""Readers of weights files: bytes in, plain values out; nothing here knows networks."""
