"""TODO pickle."""
