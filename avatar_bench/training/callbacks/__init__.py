"""Callbacks that a user selects, found by name: a dataclass whose `build` returns a callback of Lightning."""
