"""DAVS: Talking Face Generation by Adversarially Disentangled Audio-Visual Representation (AAAI 2019)."""
