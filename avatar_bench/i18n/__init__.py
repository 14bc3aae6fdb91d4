"""Translation of texts in figures, reports and messages, from the catalogues in this folder."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

import yaml

_FOLDER = Path(__file__).parent
_MIN_FIXED_LENGTH = 14  # shorter patterns could match names or texts that are not ours
_language: ContextVar[str] = ContextVar("language", default="en")


def list_languages() -> tuple[str, ...]:
    """Return the available languages, English first."""
    return ("en", *sorted(file.stem for file in _FOLDER.glob("*.yaml")))


def language() -> str:
    """Return the current language."""
    return _language.get()


@contextmanager
def use_language(language: str) -> Iterator[None]:
    """Set the language of `_` inside the `with`."""
    token = _language.set(language)
    try:
        yield
    finally:
        _language.reset(token)


def _(text: str, **values: object) -> str:
    """Translate an English text into the current language and fill its {placeholders} with `values`.

    A text that the catalogue lacks, such as one of a user's own block, stays English.
    """
    translated = load_catalogue(_language.get()).get(text, text)
    return translated.format(**values) if values else translated


def translate(text: str) -> str:
    """Translate a text that `_` returned in any language, such as a saved warning, into the current language.

    Values that are texts of ours are translated too. A text that matches no pattern of the catalogues stays unchanged.
    """
    for pattern, english in _build_patterns():
        match = pattern.fullmatch(text)
        if match is not None:
            return _(english, **{name: translate(value) for name, value in match.groupdict().items()})
    return text


@cache
def _build_patterns() -> list[tuple[re.Pattern[str], str]]:
    """Return a pattern of each text in each language with its English, the most fixed characters first."""
    patterns = []
    for one in list_languages()[1:]:
        for english, translated in load_catalogue(one).items():
            for text in {english, translated}:
                parts = list(string.Formatter().parse(text))
                fixed = sum(len(literal) for literal, *__ in parts)
                if fixed >= _MIN_FIXED_LENGTH:
                    patterns.append((fixed, re.compile(_build_pattern(parts), re.DOTALL), english))
    return [(pattern, english) for __, pattern, english in sorted(patterns, key=lambda one: (-one[0], one[2]))]


def _build_pattern(parts: Iterable[tuple[str, str | None, str | None, str | None]]) -> str:
    pattern, known = "", set()
    for literal, name, *__ in parts:
        pattern += re.escape(literal)
        if name is not None:
            pattern += f"(?P={name})" if name in known else f"(?P<{name}>.*)"
            known.add(name)
    return pattern


@cache
def load_catalogue(language: str) -> Mapping[str, str]:
    """Load the catalogue of a language, a mapping from English texts to translations; empty for English."""
    if language == "en":
        return {}
    return dict(yaml.safe_load((_FOLDER / f"{language}.yaml").read_text(encoding="utf-8")))
