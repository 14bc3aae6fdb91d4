"""Terminal output, signals, warnings and memory of the process."""
