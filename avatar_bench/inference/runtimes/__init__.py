"""Runtimes of classifiers and exported networks."""
