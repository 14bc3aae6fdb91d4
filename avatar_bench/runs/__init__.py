"""Run folders, their records, and ensembles of runs."""
