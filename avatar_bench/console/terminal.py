"""Terminal output in which untrusted names, which may contain any byte, cannot act as control sequences."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Sequence
from typing import TextIO

from avatar_bench.console.progress import clear_bars

MAX_NAME_LENGTH = 300  # characters displayed of a name
_SHORT_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
# control characters (C0, DEL, C1), bidirectional marks, line separators, lone surrogates
_CONTROL_CHARACTERS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_CREDENTIALS = re.compile(r"(\w://)[^/@\s'\"]+@")


def escape_control_characters(text: object) -> str:
    r"""Return a text as one line with every control character escaped, such as \x1b."""
    return _CONTROL_CHARACTERS.sub(_escape, str(text))


def format_name(name: str) -> str:
    """Return a name on one line: unprintable characters escaped, the middle of a very long name omitted."""
    line = escape_control_characters(name)
    return line if len(line) <= MAX_NAME_LENGTH else f"{line[: MAX_NAME_LENGTH // 2]}...{line[-MAX_NAME_LENGTH // 2 :]}"


def format_names(names: Sequence[str], most: int) -> str:
    """Return the first names of a list on one line, and how many more there are."""
    more = len(names) - most
    return ", ".join(map(format_name, names[:most])) + f" and {more} more" * (more > 0)


def hide_credentials(text: str) -> str:
    """Return a text without the user names and passwords of URLs, as in proxies and git remotes."""
    return _CREDENTIALS.sub(r"\1***@", text)


def print_line(text: object, file: TextIO | None = None) -> None:
    """Print one line, to standard output unless `file` is given."""
    with clear_bars(file or sys.stdout):
        print(escape_control_characters(text), file=file or sys.stdout)


def print_note(text: object) -> None:
    """Print one line to standard error."""
    print_line(text, sys.stderr)


def format_count(number: int, noun: str) -> str:
    """Return a number with its noun in singular or plural: 1 image, 2 images."""
    return f"{number} {noun}" + "s" * (number != 1)


def prepare_streams() -> None:
    """Replace closed standard streams by the null device, and escape characters that the encoding of output lacks."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:  # it takes the lowest number, or the next file would, and hold what libraries print
            setattr(sys, name, open(os.devnull, "w" if number else "r"))  # noqa: SIM115
        elif number and isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _escape(character: re.Match[str]) -> str:
    code = ord(character[0])
    return _SHORT_ESCAPES.get(character[0]) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")
