"""Cross-validation: train and judge k networks, pool what they say of images they have not seen, find wrong labels."""
