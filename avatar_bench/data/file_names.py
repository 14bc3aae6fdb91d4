"""Display and validation of file names, which may contain any byte except / and NUL."""

from __future__ import annotations

from collections.abc import Sequence

from avatar_bench.console.terminal import escape_control_characters

MAX_NAME_LENGTH = 300  # characters displayed of a name


def format_name(name: str) -> str:
    """Return a name on one line: unprintable characters escaped, the middle of a very long name omitted."""
    line = escape_control_characters(name)
    return line if len(line) <= MAX_NAME_LENGTH else f"{line[: MAX_NAME_LENGTH // 2]}...{line[-MAX_NAME_LENGTH // 2 :]}"


def format_names(names: Sequence[str], most: int) -> str:
    """Return the first names of a list on one line, and how many more there are."""
    more = len(names) - most
    return ", ".join(map(format_name, names[:most])) + f" and {more} more" * (more > 0)


def find_name_problem(name: str) -> str:
    """Return why a UTF-8 CSV cannot store a name, or ""."""
    if "\r" in name:
        return "its name contains a carriage return"
    return "its name is not UTF-8" if name.encode(errors="replace").decode() != name else ""
