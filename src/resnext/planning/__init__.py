"""Plans for training runs: time, cost and the input pipeline of a cluster."""
