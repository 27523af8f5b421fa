"""A pair of checkpoints: published, packaged, or embedded."""
