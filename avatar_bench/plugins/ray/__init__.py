"""Prediction of many files on a Ray cluster: `predict engine=ray`."""
