"""How fast the model reads and computes, and what it learns under which settings."""
