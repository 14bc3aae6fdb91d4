"""Predictions on files, and the runtimes that compute them."""
