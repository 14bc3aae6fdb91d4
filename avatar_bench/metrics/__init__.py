"""Metrics, statistics and plots as pure functions on arrays."""
