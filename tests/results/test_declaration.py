"""Declarations of blocks: about.yaml, read without importing the block."""

import pytest

from avatar_bench.config.catalogue import list_blocks
from avatar_bench.config.entries import find_entries
from avatar_bench.errors import ConfigError
from avatar_bench.i18n import use_language
from avatar_bench.results.declaration import Declaration, declare_block
from tests.builders.run_files import write_file


@pytest.fixture
def write_block(tmp_path, monkeypatch):
    """Write the about.yaml of a user's block "mine", whose module cannot be imported."""

    def write(about):
        write_file(tmp_path / "block" / "mine" / "__init__.py", "raise RuntimeError('imported')\n")
        write_file(tmp_path / "block" / "mine" / "about.yaml", about)
        monkeypatch.setenv("AVATAR_BENCH_CONF", str(tmp_path))

    return write


def test_a_users_block_is_declared_like_a_built_in_one_and_captions_name_what_their_last_star_matches(write_block):
    about = "title: Mine\nkind: comparison\nmetrics: [x]\nfigures: {bars: Bars, 'of_*': 'Bars of {name}'}\n"
    write_block(about + "tables: {t: {title: T, columns: [a, b], open: true}}\n")
    declaration = declare_block("mine")
    assert (declaration.title, declaration.kind, declaration.metrics) == ("Mine", "comparison", ("x",))
    assert declaration.tables["t"].columns == ("a", "b")
    assert declaration.find_caption("of_cats") == "Bars of cats"
    assert declaration.order_figures(["zoo", "of_cats", "bars"]) == ["bars", "of_cats", "zoo"]
    assert declare_block("elsewhere") == Declaration("elsewhere", title="elsewhere", is_known=False)
    figures = {"wall": "All classes", "class_*_*": "Images of {name}", "errors_of_*": "Errors of {name}"}
    captions = {"wall": "All classes", "class_1_drawing": "Images of drawing", "class_12_a_b_2": "Images of a_b_2"}
    captions |= {"errors_of_a_b": "Errors of a_b", "class_1": "class 1"}
    declaration = Declaration("toy", figures=figures)
    assert {figure: declaration.find_caption(figure) for figure in captions} == captions


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ("titel: x\n", r"titel is not known \(did you mean title\?\)"),
        ("title: [x]\n", "title is .* expected a valid string"),
        ("order: first\n", "order is 'first'; expected a valid integer"),
        ("tables: {x: TEXT}\n", "tables.x is 'TEXT'; expected an object"),
        ("qualities: {a: {metric: x, best: high}}\n", "qualities.a.best is 'high'; expected a valid number"),
        ("kind: other\n", "kind is 'other'; expected 'run', "),
        ("tables: {t: {heading: x}}\n", "tables.t.heading is not known"),
        ("- x\n", "expected a mapping"),
    ],
)
def test_a_wrong_declaration_is_refused_with_its_file_and_leaves_the_other_blocks_in_order(about, message, write_block):
    write_block(about)
    with pytest.raises(ConfigError, match=message) as error:
        declare_block("mine")
    assert "about.yaml" in str(error.value)
    if about.startswith("order"):
        assert list_blocks()[0] == "blind_test"
        assert "mine" in list_blocks()


@pytest.mark.parametrize("name", find_entries("block"))
def test_a_built_in_block_declares_what_its_readers_need(name):
    block = declare_block(name)
    assert block.title != name
    assert all((block.summary, block.reading))
    assert block.order < 1000
    captions = list(block.figures.values())
    assert len(set(captions)) == len(captions), "two figures with one caption"
    assert all(meaning.rstrip().endswith(".") for meaning in block.terms.values())
    with use_language("ru"):
        assert [text for text in captions if block.find_caption(text) == ""] == []
