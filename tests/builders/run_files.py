"""Files of runs and of users, as tests read and write them."""

import json


def write_file(file, text):
    """Write a text with the folders that it lies in; return the file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def load_record(run):
    """Return the content of run.json as plain values."""
    return json.loads((run / "run.json").read_text(encoding="utf-8"))
