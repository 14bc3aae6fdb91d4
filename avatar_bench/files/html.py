"""Jinja environments for HTML and Markdown pages in which every value is escaped."""

from __future__ import annotations

import base64
import html
import re
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from avatar_bench.files.hashes import sha256_of_text

_CODE = re.compile(r"`([^`]+)`")
_SPACE = re.compile(r"\s+")
_MARKS = re.compile(r"([\\`*_\[\]#!|~$])")


def build_html_environment(*packages: str) -> Environment:
    """Return an environment that escapes HTML, with the templates of reports, then those of further packages.

    Its filter `sha256` is for a page's Content-Security-Policy, `code` for trusted text with code between backticks.
    """
    environment = _build_environment(*packages, autoescape=True)
    environment.filters["sha256"] = lambda text: base64.b64encode(bytes.fromhex(sha256_of_text(text))).decode()
    environment.filters["code"] = lambda text: Markup(_CODE.sub(r"<code>\1</code>", html.escape(text)))
    return environment


def build_markdown_environment(*packages: str) -> Environment:
    """Return an environment that escapes values for Markdown and HTML in it, with templates as for HTML."""
    environment = _build_environment(*packages, autoescape=False, finalize=escape_markdown)
    environment.filters["code"] = _format_markdown_code
    return environment


def escape_markdown(value: Any) -> str:
    """Return a value as one line of plain text, with all Markdown and HTML escaped."""
    if isinstance(value, Markup):
        return value
    return _escape(str(value).strip())


def _escape(text: str) -> Markup:
    return Markup(_MARKS.sub(r"\\\1", html.escape(_SPACE.sub(" ", text), quote=False)))


def _build_environment(*packages: str, **options: Any) -> Environment:
    loader = ChoiceLoader([PackageLoader(name) for name in ("avatar_bench.reporting", *packages)])
    return Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, **options)


def _format_markdown_code(text: str) -> Markup:
    return Markup("".join(f"`{part}`" if odd % 2 else _escape(part) for odd, part in enumerate(_CODE.split(text))))
