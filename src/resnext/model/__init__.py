"""The network family: notation, blocks, networks, forms, cost and design. Import the file you need."""
