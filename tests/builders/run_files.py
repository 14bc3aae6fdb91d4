"""Files of users, as tests write them."""


def write_file(file, text):
    """Write a text with the folders that it lies in; return the file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file
