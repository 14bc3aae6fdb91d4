"""Evaluation of runs by blocks."""
