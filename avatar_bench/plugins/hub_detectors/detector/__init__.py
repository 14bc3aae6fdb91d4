"""Kinds of detectors of the plug-in."""
