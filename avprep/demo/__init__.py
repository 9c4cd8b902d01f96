"""A synthetic corpus for trying everything out, and the speed of each step."""
