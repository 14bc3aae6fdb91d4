"""Experiment loggers, found by name: a dataclass of options whose `build` returns a logger of Lightning."""
