"""Evaluation blocks, one folder each."""
