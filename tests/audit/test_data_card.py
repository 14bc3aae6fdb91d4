"""Data card: its contents, and escaping of names and texts."""

import base64
import hashlib
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from avatar_bench.audit.assessment import Assessment
from avatar_bench.audit.data_card import draw_counts, has_card, write_card
from avatar_bench.files import html
from avatar_bench.files.html import escape_markdown
from avatar_bench.i18n import use_language
from avatar_bench.metrics import plots
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric, Result, redraw
from tests.builders.parsed_page import Page
from tests.builders.pixels import encode, make_noise
from tests.commands.conftest import blank_figures

__all__ = ["blank_figures"]
EVIL = "<script>alert('x')</script>"
ODD = 'a|b `c` [d](e) *f* "g" & <img src=x onerror=h>'


def write_set(root, labels=("drawing", EVIL), sources=("pen", ODD)):
    """Write what prepare leaves in a folder, six images a class."""
    (root / "images").mkdir(parents=True)
    rows = []
    for label in labels:
        for number in range(6):
            path = f"images/{len(rows)}.png"
            (root / path).write_bytes(encode(make_noise(len(rows), 32, 32)))
            rows.append((path, label, sources[number % len(sources)], ("train", "val", "test")[number % 3]))
    frame = pd.DataFrame(rows, columns=["path", "label", "source", "split"])
    frame.to_csv(root / "manifest.csv", index=False)
    frame.head(2).to_csv(root / "blind.csv", index=False)
    about = {"label": "drawing", "count": 6, "licence": "CC0", "author": EVIL}
    pd.DataFrame([{"source": name, **about} for name in sources]).to_csv(root / "sources.csv", index=False)
    refused = [(f"{EVIL}.png", "empty file"), (ODD, "PBM is not supported")]
    pd.DataFrame(refused, columns=["file", "reason"]).to_csv(root / "quarantine.csv", index=False)


def audited(root):
    """Save the Result of an audit with one figure and return it."""
    result = Result("data_audit", "set", 12, ("a", "b"))
    result.metrics = {
        "metadata_auroc": Metric(0.93, 12, 0.91, 0.95, "bootstrap by group", higher_is_better=False),
        "equalised/metadata_auroc": Metric(0.51, 12, 0.45, 0.57, "bootstrap by group", higher_is_better=False),
        "source_auroc": Metric(None, 0, reason=Reason("no_source"), higher_is_better=False),
    }
    result.tables["single_properties"] = pd.DataFrame({"property": ["format", "width"], "auroc": [0.93, 0.5]})
    result.tables["hints"] = pd.DataFrame({"hint": ["c2pa"], "a": [3], "b": [0]})
    result.warnings = [
        Reason("assessment", answer=Reason("no"), why=Reason("source")),
        Reason("undecodable", n=1, all=12, why=EVIL),
    ]
    result.provenance = {
        "assessment": Assessment("no", [Reason("file", value=0.93), Reason("one_source", name=EVIL)]).plain,
        "equalised/assessment": Assessment("with_care", [Reason("one_source", name="a")]).plain,
    }
    redraw(result.save(root / "audit", draw), draw, "ru")
    return result


def draw(result):
    return {"aurocs": plots.draw_gallery([np.zeros((2, 2, 3), np.uint8)], ["x"])}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets") / "avatars <b>& co"
    write_set(root)
    assert write_card(root, audited(root)) == [root / "card.md", root / "card.html"]
    return root


@pytest.fixture(scope="module")
def page(folder):
    return Page(folder / "card.html")


@pytest.fixture(scope="module")
def markdown(folder):
    return (folder / "card.md").read_text(encoding="utf-8")


def test_nothing_in_a_name_becomes_markup_and_the_page_needs_no_other_file_and_no_network(page, markdown, folder):
    assert not {"script", "b"} & {tag for tag, _ in page.tags}
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert page.words.count(EVIL) >= 4
    assert ODD in page.words
    assert re.findall(r"<\w", markdown) == []
    assert "[d](e)" not in markdown
    tables = [line for line in markdown.splitlines() if line.startswith("|")]
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in tables if "PBM" in line or "empty file" in line}
    assert widths == {3}
    images = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert len(images) == 4  # the chart of counts, samples of two classes, and a figure
    assert all(source is not None and source.startswith("data:image/webp;base64,") for source in images)
    assert not {"link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not any("http" in (value or "") for tag, attrs in page.tags for name, value in attrs.items())
    assert not any("style" in attrs for _, attrs in page.tags)
    (style,) = re.findall(r"<style>(.*?)</style>", (folder / "card.html").read_text(encoding="utf-8"), re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    (policy,) = [attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    sources = f"img-src data:; style-src 'sha256-{digest}'"
    assert policy == f"default-src 'none'; base-uri 'none'; form-action 'none'; {sources}"
    named = re.findall(r"\]\(((?:audit|card)/[^)]+)\)", markdown)
    assert len(named) == 4
    assert all((folder / name).is_file() for name in named)
    assert "| class | train | val | test | blind | all | " in markdown
    assert "| drawing | 2 | 2 | 2 | 2 | 8 | " in markdown


ORDER = ["no", "the file alone, without the image, predicts a class", "Warnings", "Images", "Sources"]
WORDS = [
    "Images for training and testing: 12; external test set (blind): 2; out of domain: 0.",
    *("CC0", "0.51 (0.45 to 0.57)", "no source is known", "After data.equalise=jpeg", "format (0.93)"),
    *("Files excluded: 2", "empty file", "Two cautions", "c2pa", "data.blind=DIR/blind.csv data.equalise=jpeg"),
]


@pytest.mark.parametrize("kind", ["page", "markdown"])
def test_the_card_begins_with_the_assessment(kind, request):
    card = request.getfixturevalue(kind)
    words = card.words if isinstance(card, Page) else re.sub(r"\\|`|\*\*", "", card)
    positions = [words.index(part) for part in [*ORDER, "0.93 (0.91 to 0.95)"]]
    assert (positions, [part for part in WORDS if part not in words]) == (sorted(positions), [])
    assert "is this set suitable" not in words  # it stands above, in its own words


def test_out_of_domain_sets_have_a_column_of_their_own_and_a_manifest_alone_has_a_card(tmp_path):
    write_set(tmp_path / "set", labels=("real",))
    frame = pd.read_csv(tmp_path / "set" / "manifest.csv")
    frame.head(3).assign(label="thing").to_csv(tmp_path / "set" / "ood_things.csv", index=False)
    frame.head(2).assign(label="icon").to_csv(tmp_path / "set" / "ood_icons.csv", index=False)
    text = write_card(tmp_path / "set", audited(tmp_path / "set"))[0].read_text(encoding="utf-8")
    assert "Images for training and testing: 6; external test set (blind): 2; out of domain: 5." in text
    assert "| class | train | val | test | blind | out of domain | all | " in text
    assert "| thing | 0 | 0 | 0 | 0 | 3 | 3 | " in text
    for name in ("blind", "sources", "quarantine", "ood_things", "ood_icons"):
        (tmp_path / "set" / f"{name}.csv").unlink()
    page = Page(write_card(tmp_path / "set", Result("data_audit", "set", 6, ("real",)))[1])
    assert all(words in page.words for words in ("not asked", "No sources are stated", "None."))


def test_the_card_speaks_russian(tmp_path):
    write_set(tmp_path)
    with use_language("ru"):
        markdown_file, page_file = write_card(tmp_path, audited(tmp_path))
    markdown, page = markdown_file.read_text(encoding="utf-8"), Page(page_file)
    assert (has_card(tmp_path, "ru"), has_card(tmp_path, "en")) == (True, False)
    assert "](audit/ru/aurocs.png)" in markdown
    assert '<html lang="ru">' in page.text
    question = "Пригоден ли этот набор для обучения и оценки классификаторов?"
    for text in (page.words, markdown):
        said = (question, "класс выдаёт сам файл", "Исключённые файлы", "от 0.91 до 0.95")
        assert [words for words in said if words not in text] == []
        assert not any(words in text for words in ("What", "the file alone"))


def test_texts_and_code_in_markdown_are_escaped_to_one_line():
    escaped = {"plain.jpg": "plain.jpg", "a|b": "a\\|b", "a\n# b": "a \\# b", "<b>": "&lt;b&gt;", 12: "12"}
    assert {text: escape_markdown(text) for text in escaped} == escaped
    assert html.build_markdown_environment().filters["code"]("see `a_b` in *it*") == "see `a_b` in \\*it\\*"


ROWS = [("real", "studio", "train")] * 5 + [("real", "street", "test")] * 2 + [("drawing", "pen", "train")] * 3
ROWS += [("drawing", "", "val")] + [("bread", "kitchen", "out of domain")] * 4
IMAGES = pd.DataFrame(ROWS, columns=["label", "source", "split"])
SPLITS = ["train", "val", "test", "out of domain"]


def bars(axes):
    """Return the lengths of the bars by row and colour."""
    names = [label.get_text() for label in axes.get_yticklabels()]
    collected = {name: {} for name in names}
    for patch in axes.patches:
        row = round(patch.get_y() + patch.get_height() / 2)
        if patch.get_width():
            collected[names[row]][to_hex(patch.get_facecolor()).upper()] = patch.get_width()
    return collected


def test_every_image_is_counted_in_each_panel_in_the_colour_of_its_class():
    by_class, by_split, by_source = panels = draw_counts(IMAGES, SPLITS).axes
    drawing, real, bread = plots.PALETTE[:3]  # what training lacks comes last
    assert bars(by_class) == {"drawing": {drawing: 4}, "real": {real: 7}, "bread": {bread: 4}}
    sides = {"train": {drawing: 3, real: 5}, "val": {drawing: 1}, "test": {real: 2}, "out of domain": {bread: 4}}
    assert bars(by_split) == sides
    known = {"pen": {drawing: 3}, "studio": {real: 5}, "street": {real: 2}, "kitchen": {bread: 4}}
    assert bars(by_source) == {**known, "not known": {drawing: 1}}
    for axes in panels:  # each bar ends with its number, inside the axes
        totals = [sum(parts.values()) for parts in bars(axes).values()]
        assert [float(text.get_text()) for text in axes.texts] == totals
        assert axes.get_xlim()[1] > 1.1 * max(totals)
    rows = [("real", f"s{number:02}", "train") for number in range(50) for _ in range(number + 1)]
    axes = draw_counts(pd.DataFrame(rows, columns=["label", "source", "split"]), ["train"]).axes[-1]
    assert list(bars(axes)) == [f"s{number:02}" for number in range(49, 9, -1)]
    assert len(draw_counts(IMAGES.assign(source=""), SPLITS).axes) == 2


def test_the_card_shows_each_mark_with_its_image(tmp_path):
    write_set(tmp_path)
    result = audited(tmp_path)
    columns = ("position", "class", "auroc", "low", "high", "p", "p_search", "mark", "images")
    rows = [("top_left", EVIL, 0.9, 0.8, 0.95, 0.001, 0.002, "m1", 30), ("anywhere", "b", 0.5, 0.4, 0.6, 1, 1, "", 0)]
    result.tables["marks"] = pd.DataFrame(rows, columns=columns)
    result.images = {"marks/m1": make_noise(0, 8, 8)}
    write_card(tmp_path, Result.load(result.save(tmp_path / "audit")))
    page = (tmp_path / "card.html").read_text(encoding="utf-8")
    folded = page[page.index("<details>") : page.index("</details>")]
    assert folded.count('src="data:image/webp;base64,') == 1
    assert "top left, 30 images; AUROC 0.90 (0.80 to 0.95), p = 0.001" in folded
    assert EVIL not in page
    assert "](audit/marks/m1.png)" in (tmp_path / "card.md").read_text(encoding="utf-8")
