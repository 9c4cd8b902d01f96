"""DAVS: Talking Face Generation by Adversarially Disentangled Audio-Visual Representation (Zhou et al., AAAI 2019)."""
