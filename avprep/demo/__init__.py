"""A synthetic corpus to try everything on, and the speed of each step."""
