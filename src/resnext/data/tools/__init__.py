"""Actions of ``resnext data``: check folders and sources, write shards."""
