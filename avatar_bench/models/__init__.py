"""Backbones, checkpoints, and the classifier built from them."""
