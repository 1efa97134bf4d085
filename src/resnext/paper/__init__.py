"""The numbers of the paper as data, compared with what is measured here, and the recipes that reproduce them."""
