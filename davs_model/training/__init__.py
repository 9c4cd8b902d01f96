"""Training: steps, runs that can be interrupted and resumed, several processes."""
