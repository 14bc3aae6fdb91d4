"""Data sets made from sources: read, stored by content, curated and written down."""
