"""Catalogues: complete, and with the same placeholders as the English."""

from __future__ import annotations

import ast
import string
from pathlib import Path

import pytest
from jinja2 import Environment, nodes

from avatar_bench.i18n import _, list_languages, load_catalogue, translate, use_language

PACKAGE = Path(__file__).parents[2] / "avatar_bench"
OTHERS = list_languages()[1:]


def said() -> dict[str, str]:
    """Return every translatable text of the package with its module."""
    found = {}
    for file in PACKAGE.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if "avatar_bench.i18n import" in text else ():
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "_":
                assert isinstance(node.args[0], ast.Constant), f"{file}:{node.lineno}: _ takes a literal text"
                text = str(node.args[0].value)
                given = {keyword.arg for keyword in node.keywords}
                assert given == places(text), f"{file}:{node.lineno}: places of {text!r}"
                found[text] = f"{file.name}:{node.lineno}"
    return found | said_in_templates()


def said_in_templates() -> dict[str, str]:
    """Return every translatable text of the templates with its template."""
    found = {}
    for file in PACKAGE.rglob("*.jinja"):
        for call in Environment().parse(file.read_text(encoding="utf-8")).find_all(nodes.Call):
            if isinstance(call.node, nodes.Name) and call.node.name == "_":
                assert isinstance(call.args[0], nodes.Const), f"{file}:{call.lineno}: _ takes a literal text"
                text = str(call.args[0].value)
                assert {keyword.key for keyword in call.kwargs} == places(text), f"{file}:{call.lineno}: {text!r}"
                found[text] = f"{file.name}:{call.lineno}"
    return found


def places(text: str) -> set[str | None]:
    return {name for __, name, __, __ in string.Formatter().parse(text) if name is not None}


def test_russian_is_there() -> None:
    assert OTHERS == ("ru",)


@pytest.mark.parametrize("language", OTHERS)
def test_a_catalogue_has_every_text_and_no_other(language: str) -> None:
    words, texts = load_catalogue(language), said()
    assert {text: place for text, place in texts.items() if text not in words} == {}
    assert sorted(set(words) - set(texts)) == []


@pytest.mark.parametrize("language", OTHERS)
def test_a_translation_has_the_places_of_the_english(language: str) -> None:
    assert [text for text, words in load_catalogue(language).items() if places(text) != places(words)] == []


@pytest.mark.parametrize("language", OTHERS)
def test_a_translation_is_one(language: str) -> None:
    letters = [words for words in load_catalogue(language).values() if any(letter.isalpha() for letter in words)]
    cyrillic = [words for words in letters if any("а" <= letter <= "я" for letter in words.lower())]
    assert len(cyrillic) > 0.9 * len(letters)  # names such as EXIF stay


def test_the_language_is_that_of_the_with_around() -> None:
    assert _("predicted class") == "predicted class"
    with use_language("ru"):
        assert _("predicted class") == "предсказанный класс"
        with use_language("en"):
            assert _("stage {k}", k=2) == "stage 2"
        assert _("stage {k}", k=2) == "этап 2"
        assert _("a user's own {word}", word="text") == "a user's own text"
    assert _("predicted class") == "predicted class"


def test_a_saved_text_is_translated_whatever_language_it_was_said_in() -> None:
    with use_language("ru"):
        russian = _("{n} of {all} images have no known class and are left out.", n=3, all=9)
    english = "3 of 9 images have no known class and are left out."
    for text in (english, russian):
        assert translate(text) == english
        with use_language("ru"):
            assert translate(text) == russian


def test_values_of_a_saved_text_are_translated_and_names_are_not() -> None:
    text = "{run} is left out: {reason}"
    reason = "the run has no out-of-domain set"
    with use_language("ru"):
        assert translate(f"noise is left out: {reason}") == _(
            text, run="noise", reason=_("the run has no out-of-domain set")
        )
        assert translate("a user's own warning of noise") == "a user's own warning of noise"
        assert translate("noise") == "noise"
        assert translate("") == ""


def test_accuracy_has_one_word_in_russian_which_precision_does_not_share() -> None:
    words = load_catalogue("ru")
    assert [text for text, said in words.items() if "точност" in said.lower() and "precision" not in text.lower()] == []
