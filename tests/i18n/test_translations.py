"""Catalogues: complete, each text in the one of its block or plug-in, and with the same placeholders as the English."""

import ast
import re
import string
from collections import defaultdict
from pathlib import Path

import pytest
import yaml
from jinja2 import Environment, nodes

from avatar_bench.errors import ConfigError
from avatar_bench.i18n import LANGUAGES, Catalogue, _, load_catalogue, ngettext, use_language
from tests.builders.run_files import write_file

PACKAGE = Path(__file__).parents[2] / "avatar_bench"
BLOCKS, PLUGINS = PACKAGE / "evaluation" / "blocks", PACKAGE / "plugins"


def find_home(file):
    """Return the block or plug-in that a file belongs to, "" for none."""
    roots = (root for root in (BLOCKS, PLUGINS) if root in file.parents and file.parent != root)
    return next((file.relative_to(root).parts[0] for root in roots), "")


def collect_texts():
    """Return every translatable text of the package with the blocks and plug-ins that have it."""
    texts = defaultdict(set)
    for file in PACKAGE.rglob("*.py"):
        for text in list_calls(file):
            texts[text].add(find_home(file))
    for file in PACKAGE.rglob("*.jinja"):
        for node in Environment().parse(file.read_text(encoding="utf-8")).find_all(nodes.Call):
            if isinstance(node.node, nodes.Name) and node.node.name == "_" and isinstance(node.args[0], nodes.Const):
                texts[str(node.args[0].value)].add(find_home(file))
    for file in (*BLOCKS.glob("*/about.yaml"), *(PACKAGE / "results").glob("*.yaml")):
        saved = yaml.safe_load(file.read_text(encoding="utf-8"))
        about = {"reasons": saved} if file.name == "reasons.yaml" else saved
        for text in list_texts(about):
            texts[text].add(find_home(file))
    return texts


def list_calls(file):
    """Yield the texts that a module translates."""
    source = file.read_text(encoding="utf-8")
    for call in ast.walk(ast.parse(source)) if "avatar_bench.i18n import" in source else ():
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in ("_", "ngettext"):
            first = call.args[0]
            if isinstance(first, ast.Constant):  # else a text of a declaration
                text = str(first.value)
                keywords = {keyword.arg for keyword in call.keywords} | ({"n"} if call.func.id == "ngettext" else set())
                assert not keywords or places(text) <= keywords, f"{file}:{call.lineno}: places of {text!r}"
                yield text


def list_texts(about):
    """Yield the texts of a declaration that are shown in reports and figures."""
    yield from (about[key] for key in ("title", "reading") if key in about)
    for part in ("figures", "headings", "words"):
        yield from about.get(part, {}).values()
    yield from (table["title"] for table in about.get("tables", {}).values() if "title" in table)
    yield from (text for chart in about.get("charts", {}).values() for text in list_labels(chart))
    yield from (text for pair in about.get("terms", {}).items() for text in pair)
    yield from (text["one"] if isinstance(text, dict) else text for text in about.get("reasons", {}).values())


def list_labels(chart):
    """Yield the labels of a declared chart, without lines of text that are columns alone."""
    named = [chart[key] for key in ("x", "y", "value") if isinstance(chart.get(key), dict)]
    for labels in (*named, chart.get("lines", {})):
        yield from filter(None, labels.values())
    yield from filter(None, [chart.get("label")])
    yield from (text for text in chart.get("text", ()) if re.sub(r"{.*?}", "", text).strip(", "))


def places(text):
    return {name for __, name, __, __ in string.Formatter().parse(text) if name}


def read_catalogues(language):
    """Return the catalogue of each block and plug-in, and that of the core under ""."""
    files = PACKAGE.rglob(f"{language}.yaml")
    return {find_home(file): yaml.safe_load(file.read_text(encoding="utf-8")) for file in files}


def test_the_catalogues_have_every_text_and_no_other():
    assert LANGUAGES[1:] == ("ru",)
    catalogues, texts = read_catalogues("ru"), collect_texts()
    known = {text for catalogue in catalogues.values() for text in catalogue}
    assert sorted(set(texts) - known) == []
    assert sorted(known - set(texts)) == []
    for text, homes in texts.items():
        (home,) = [block for block, catalogue in catalogues.items() if text in catalogue]
        assert home == (next(iter(homes)) if len(homes) == 1 else ""), text


def test_a_translation_is_russian_and_has_the_places_of_the_english():
    catalogues = read_catalogues("ru").values()
    for catalogue in catalogues:
        for text, translated in catalogue.items():
            for form in [translated] if isinstance(translated, str) else translated:
                assert places(form) == places(text), text
    texts = [str(text) for catalogue in catalogues for text in catalogue.values()]
    letters = [text for text in texts if any(letter.isalpha() for letter in text)]
    cyrillic = [text for text in letters if any("а" <= letter <= "я" for letter in text.lower())]
    assert len(cyrillic) > 0.9 * len(letters)  # names such as EXIF stay


def test_the_language_is_that_of_the_with_around():
    assert _("predicted class") == "predicted class"
    with use_language("ru"):
        assert _("predicted class") == "предсказанный класс"
        with use_language("en"):
            assert _("stage {k}", k=2) == "stage 2"
        assert _("stage {k}", k=2) == "этап 2"
        assert _("a user's own {word}", word="text") == "a user's own text"
    assert _("predicted class") == "predicted class"


def test_a_number_chooses_the_form():
    catalogue = Catalogue("ru", {"{n} cat": ["кошка", "кошки", "кошек"]})
    for form, numbers in {"кошка": (1, 21, 101), "кошки": (2, 4, 22), "кошек": (0, 5, 11, 12, 112)}.items():
        for n in numbers:
            assert catalogue.ngettext("{n} cat", "{n} cats", n) == form
            assert catalogue.ngettext("{n} dog", "{n} dogs", n) == ("{n} dog" if n == 1 else "{n} dogs")
    assert [ngettext("{n} cat", "{n} cats", n) for n in (0, 1, 2)] == ["0 cats", "1 cat", "2 cats"]


def test_a_users_catalogue_is_read_and_that_of_the_package_wins(tmp_path, monkeypatch):
    write_file(tmp_path / "block" / "mine" / "ru.yaml", "my word: моё слово\npredicted class: другое\n")
    monkeypatch.setenv("AVATAR_BENCH_CONF", str(tmp_path))
    with use_language("ru"):
        assert (_("my word"), _("predicted class")) == ("моё слово", "предсказанный класс")


@pytest.mark.parametrize("name", ["block/mine/ru.yaml", "corruption/mine.yaml"])
def test_a_users_catalogue_of_another_form_is_refused(name, tmp_path, monkeypatch):
    file = write_file(tmp_path / name, "just text\n" if name.endswith("ru.yaml") else "ru: text\n")
    file.with_suffix(".py").touch()
    monkeypatch.setenv("AVATAR_BENCH_CONF", str(tmp_path))
    with pytest.raises(ConfigError, match="mapping"), use_language("ru"):
        _("predicted class")


def test_accuracy_has_one_word_in_russian_which_precision_does_not_share():
    translations = load_catalogue("ru").texts.items()
    texts = [text for text, translated in translations if "точност" in str(translated).lower()]
    assert [text for text in texts if "precision" not in text.lower()] == []
