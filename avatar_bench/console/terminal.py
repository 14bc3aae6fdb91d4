"""Lines for the terminal, in which what strangers named is shown and never obeyed."""

from __future__ import annotations

import io
import re
import sys
from typing import TextIO

_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
# control characters (C0, DEL, C1), marks that turn the direction of text, separators of lines, halves of surrogates
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_SECRET = re.compile(r"(\w://)[^/@\s'\"]+@")


def printable(text: object) -> str:
    r"""Give a text as one line in which every character that a terminal would obey is written as \x1b or the like."""
    return _OBEYED.sub(_escape, str(text))


def without_passwords(text: str) -> str:
    """Give a text in which no address holds a user name or password, as a proxy's or a git remote's may."""
    return _SECRET.sub(r"\1***@", text)


def tell(text: object, file: TextIO | None = None) -> None:
    """Print one line, on standard output unless `file` says otherwise."""
    print(printable(text), file=file or sys.stdout)


def counted(number: int, noun: str) -> str:
    """Give a number of things in words: 1 image, 2 images."""
    return f"{number} {noun}" + "s" * (number != 1)


def accept_any_text() -> None:
    """Have standard output and error write characters that their encoding lacks as escapes instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return _SHORT.get(found[0]) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")
