"""Training on a Ray cluster. This is the only package that imports ray."""
