"""Optimizers, found by name: a dataclass of options whose `build` returns an optimizer of torch."""
