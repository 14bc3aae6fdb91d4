"""Building of datasets from sources: reading, storing, curating and writing."""
