"""Kinds of sources: a module with a dataclass each, whose fields are the options of the kind."""
