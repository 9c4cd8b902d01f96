"""Batches from shards: which clips and frames they hold, and which process reads them."""
