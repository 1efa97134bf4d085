"""Image decoding: Pillow, and the fast JPEG path."""
