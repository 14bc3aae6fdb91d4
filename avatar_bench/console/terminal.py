"""Lines for the terminal, in which what strangers named is shown and never obeyed."""

from __future__ import annotations

import io
import re
import sys
from typing import TextIO

_SHORT_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
# control characters (C0, DEL, C1), marks that turn the direction of text, separators of lines, halves of surrogates
_CONTROL_CHARACTERS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_CREDENTIALS = re.compile(r"(\w://)[^/@\s'\"]+@")


def escape_control_characters(text: object) -> str:
    r"""Give a text as one line in which every character that a terminal would obey is written as \x1b or the like."""
    return _CONTROL_CHARACTERS.sub(_escape, str(text))


def hide_credentials(text: str) -> str:
    """Give a text in which no address holds a user name or password, as a proxy's or a git remote's may."""
    return _CREDENTIALS.sub(r"\1***@", text)


def print_line(text: object, file: TextIO | None = None) -> None:
    """Print one line, on standard output unless `file` says otherwise."""
    print(escape_control_characters(text), file=file or sys.stdout)


def format_count(number: int, noun: str) -> str:
    """Give a number of things in words: 1 image, 2 images."""
    return f"{number} {noun}" + "s" * (number != 1)


def escape_unencodable_output() -> None:
    """Have standard output and error write characters that their encoding lacks as escapes instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return _SHORT_ESCAPES.get(found[0]) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")
