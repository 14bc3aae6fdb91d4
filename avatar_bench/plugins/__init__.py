"""Plug-ins: products beside the core, each of which may be deleted; index.yaml says what each provides."""
