"""The words of figures and reports, in English or in another language that has a catalogue here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

import yaml

_FOLDER = Path(__file__).parent
_language: ContextVar[str] = ContextVar("language", default="en")


def languages() -> tuple[str, ...]:
    """Give the languages that there are words in, English first."""
    return ("en", *sorted(file.stem for file in _FOLDER.glob("*.yaml")))


def language() -> str:
    """Return the language that is spoken."""
    return _language.get()


@contextmanager
def speak(language: str) -> Iterator[None]:
    """Let `say` give the words of a language inside a `with`."""
    token = _language.set(language)
    try:
        yield
    finally:
        _language.reset(token)


def say(text: str, **values: object) -> str:
    """Give an English text in the language that is spoken, with `values` put into its {places}.

    A text that the catalogue lacks stays English: the words of a user's own block are not in it.
    """
    words = catalogue(_language.get()).get(text, text)
    return words.format(**values) if values else words


@cache
def catalogue(language: str) -> Mapping[str, str]:
    """Give the words of a language by the English ones; empty for English."""
    if language == "en":
        return {}
    return dict(yaml.safe_load((_FOLDER / f"{language}.yaml").read_text(encoding="utf-8")))
