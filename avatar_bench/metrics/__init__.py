"""Figures of merit, as pure functions on arrays, by subject."""
