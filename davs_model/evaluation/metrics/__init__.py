"""What a model says of a split, measured."""
