"""Predictions and results, with their file formats."""
