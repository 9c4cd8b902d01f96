"""Models: what each of them is, reads and minimises."""
