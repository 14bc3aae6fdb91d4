"""Runtimes of exported networks."""
