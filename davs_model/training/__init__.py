"""Training: steps, runs that go on where they were stopped, several processes."""
