"""Predictions on files, and the runtimes that make them."""
