"""The words of figures and reports, in English or in another language that has a catalogue here."""

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
_LEAST_FIXED = 14  # letters of a text that tell it from a name or a sentence of someone else
_language: ContextVar[str] = ContextVar("language", default="en")


def list_languages() -> tuple[str, ...]:
    """Give the languages that there are words in, English first."""
    return ("en", *sorted(file.stem for file in _FOLDER.glob("*.yaml")))


def language() -> str:
    """Return the language that is spoken."""
    return _language.get()


@contextmanager
def use_language(language: str) -> Iterator[None]:
    """Let `_` give the words of a language inside a `with`."""
    token = _language.set(language)
    try:
        yield
    finally:
        _language.reset(token)


def _(text: str, **values: object) -> str:
    """Give an English text in the language that is spoken, with `values` put into its {places}.

    A text that the catalogue lacks stays English: the words of a user's own block are not in it.
    """
    words = load_catalogue(_language.get()).get(text, text)
    return words.format(**values) if values else words


def translate(text: str) -> str:
    """Return a text that `_` gave in any language, such as a saved warning, in the language that is spoken.

    Its values are translated as well where they are texts of ours. A text that no pattern of the catalogues fits stays.
    """
    for pattern, english in _build_patterns():
        found = pattern.fullmatch(text)
        if found is not None:
            return _(english, **{name: translate(value) for name, value in found.groupdict().items()})
    return text


@cache
def _build_patterns() -> list[tuple[re.Pattern[str], str]]:
    """Return what fits the texts in each language with their English, those with the most fixed letters first."""
    found = []
    for one in list_languages()[1:]:
        for english, words in load_catalogue(one).items():
            for text in {english, words}:
                parts = list(string.Formatter().parse(text))
                fixed = sum(len(literal) for literal, *__ in parts)
                if fixed >= _LEAST_FIXED:
                    found.append((fixed, re.compile(_build_pattern(parts), re.DOTALL), english))
    return [(pattern, english) for __, pattern, english in sorted(found, key=lambda one: (-one[0], one[2]))]


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
    """Give the words of a language by the English ones; empty for English."""
    if language == "en":
        return {}
    return dict(yaml.safe_load((_FOLDER / f"{language}.yaml").read_text(encoding="utf-8")))
