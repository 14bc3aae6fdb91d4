"""Evidence in image files: what their metadata admit, by one table of rules."""
