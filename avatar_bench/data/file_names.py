"""Names of files, which may hold any byte but two: how they are shown on one line, and which a table can keep."""

from __future__ import annotations

from collections.abc import Sequence

from avatar_bench.console.terminal import escape_control_characters

MAX_NAME_LENGTH = 300  # characters of a name that are shown


def format_name(name: str) -> str:
    """Give a name on one line: what cannot be printed escaped, the middle of a very long one left out."""
    line = escape_control_characters(name)
    return line if len(line) <= MAX_NAME_LENGTH else f"{line[: MAX_NAME_LENGTH // 2]}...{line[-MAX_NAME_LENGTH // 2 :]}"


def format_names(names: Sequence[str], most: int) -> str:
    """Give the first names of a list on one line, and how many more there are."""
    more = len(names) - most
    return ", ".join(map(format_name, names[:most])) + f" and {more} more" * (more > 0)


def find_name_problem(name: str) -> str:
    """Say why a CSV in UTF-8 cannot keep a name, or nothing."""
    if "\r" in name:
        return "its name holds a carriage return"
    return "its name is not UTF-8" if name.encode(errors="replace").decode() != name else ""
