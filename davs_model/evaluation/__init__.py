"""A trained model measured on a split of OUT: the tables of its paper, figures, sheets of samples, and their page."""
