"""Evaluation of a trained model on a split of OUT: the tables of its paper, figures, sample sheets, and a page."""
