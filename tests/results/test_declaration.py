"""Declarations of blocks: about.yaml, read without importing the block."""

import pytest

from avatar_bench.config.catalogue import list_blocks
from avatar_bench.config.entries import find_entries
from avatar_bench.errors import ConfigError
from avatar_bench.i18n import use_language
from avatar_bench.results.declaration import Declaration, declare_block


def write_block(folder, name, about):
    (folder / "block" / name).mkdir(parents=True)
    (folder / "block" / name / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (folder / "block" / name / "about.yaml").write_text(about, encoding="utf-8")


def test_a_users_block_is_declared_like_a_built_in_one(tmp_path, monkeypatch):
    about = "title: Mine\nkind: comparison\nmetrics: [x]\nfigures: {bars: Bars, 'of_*': 'Bars of {name}'}\n"
    write_block(tmp_path, "mine", about + "tables: {t: {title: T, columns: [a, b], open: true}}\n")
    monkeypatch.setenv("AVATAR_BENCH_CONF", str(tmp_path))
    declaration = declare_block("mine")
    assert (declaration.title, declaration.kind, declaration.metrics) == ("Mine", "comparison", ("x",))
    assert declaration.tables["t"].columns == ("a", "b")
    assert declaration.find_caption("of_cats") == "Bars of cats"
    assert declaration.order_figures(["zoo", "of_cats", "bars"]) == ["bars", "of_cats", "zoo"]


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ("titel: x\n", "titel is not known"),
        ("title: [x]\n", "title is not a text"),
        ("order: first\n", "order is not a whole number: 'first'"),
        ("tables: {x: TEXT}\n", "tables: 'TEXT' is not a mapping"),
        ("qualities: {a: {metric: x, best: high}}\n", "qualities: 'high' is not a number"),
        ("kind: other\n", "expected one of run"),
        ("tables: {t: {heading: x}}\n", "tables:"),
        ("- x\n", "expected a mapping"),
    ],
)
def test_a_wrong_declaration_is_refused_with_its_file(about, message, tmp_path, monkeypatch):
    write_block(tmp_path, "mine", about)
    monkeypatch.setenv("AVATAR_BENCH_CONF", str(tmp_path))
    with pytest.raises(ConfigError, match=message) as error:
        declare_block("mine")
    assert "about.yaml" in str(error.value)


def test_an_order_that_is_no_number_leaves_the_other_blocks_in_theirs(tmp_path, monkeypatch):
    write_block(tmp_path, "mine", "order: first\n")
    monkeypatch.setenv("AVATAR_BENCH_CONF", str(tmp_path))
    assert list_blocks()[0] == "blind_test"
    assert "mine" in list_blocks()


def test_a_block_that_is_not_installed_has_a_declaration_without_texts():
    assert declare_block("elsewhere") == Declaration("elsewhere", title="elsewhere", is_known=False)


@pytest.mark.parametrize("name", find_entries("block"))
def test_a_built_in_block_declares_what_its_readers_need(name):
    block = declare_block(name)
    assert block.title != name
    assert block.summary
    assert block.reading
    assert block.order < 1000
    captions = list(block.figures.values())
    assert len(set(captions)) == len(captions), "two figures with one caption"
    assert all(meaning.rstrip().endswith(".") for meaning in block.terms.values())
    with use_language("ru"):
        assert [text for text in captions if block.find_caption(text) == ""] == []


@pytest.mark.parametrize(
    ("figure", "caption"),
    [
        ("wall", "All classes"),
        ("class_1_drawing", "Images of drawing"),
        ("class_12_a_b_2", "Images of a_b_2"),
        ("errors_of_a_b", "Errors of a_b"),
        ("class_1", "class 1"),
    ],
)
def test_a_caption_names_what_its_last_star_matches(figure, caption):
    figures = {"wall": "All classes", "class_*_*": "Images of {name}", "errors_of_*": "Errors of {name}"}
    assert Declaration("toy", figures=figures).find_caption(figure) == caption
