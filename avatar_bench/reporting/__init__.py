"""Report: saved runs and results, collected, ordered and laid out as a page."""
