"""A trained network on its way to other people: a hub's folder."""
