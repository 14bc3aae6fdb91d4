"""Predictions and results as they are saved."""
