"""Measurement of the shares of classes in a population of images."""
