"""Speed and memory measured side by side: ours and the peers' in one process, in turn."""
