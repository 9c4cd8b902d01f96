"""Batches from shards: which clips, which of their frames, read by whom."""
