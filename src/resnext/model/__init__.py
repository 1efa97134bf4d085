"""The networks of the paper: architecture notation, blocks, networks, forms, cost and design."""
