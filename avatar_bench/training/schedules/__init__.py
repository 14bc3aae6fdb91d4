"""Learning-rate schedules, found by name: a dataclass of options whose `build` returns a scheduler of torch."""
