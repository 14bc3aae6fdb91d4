"""Training of a run, from options to checkpoints."""
