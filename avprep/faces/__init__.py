"""Faces: detectors and their weights, tracking, alignment, mouths."""
