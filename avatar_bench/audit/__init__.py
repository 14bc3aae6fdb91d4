"""Audit of a data set: shortcuts that reveal the class, and the data card that reports them."""
