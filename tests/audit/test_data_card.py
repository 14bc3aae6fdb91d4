"""Data card: its contents, and escaping of names and texts."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from avatar_bench.audit.assessment import Assessment
from avatar_bench.audit.data_card import write_card
from avatar_bench.metrics import plots
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric, Result, redraw

EVIL = "<script>alert('x')</script>"
ODD = 'a|b `c` [d](e) *f* "g" & <img src=x onerror=h>'


class Page(HTMLParser):
    """Collect the tags and the words of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


def write_set(root: Path, labels: tuple[str, ...] = ("drawing", EVIL), sources: tuple[str, ...] = ("pen", ODD)) -> None:
    """Write what prepare leaves in a folder, six images a class."""
    (root / "images").mkdir(parents=True)
    rng, rows = np.random.default_rng(0), []
    for label in labels:
        for number in range(6):
            path = f"images/{len(rows)}.png"
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(root / path)
            rows.append((path, label, sources[number % len(sources)], ("train", "val", "test")[number % 3]))
    frame = pd.DataFrame(rows, columns=["path", "label", "source", "split"])
    frame.to_csv(root / "manifest.csv", index=False)
    frame.head(2).to_csv(root / "blind.csv", index=False)
    about = {"label": "drawing", "count": 6, "licence": "CC0", "author": EVIL}
    pd.DataFrame([{"source": name, **about} for name in sources]).to_csv(root / "sources.csv", index=False)
    refused = [(f"{EVIL}.png", "empty file"), (ODD, "PBM is not supported")]
    pd.DataFrame(refused, columns=["file", "reason"]).to_csv(root / "quarantine.csv", index=False)


def audited(root: Path) -> Result:
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


def draw(result: Result) -> dict[str, Figure]:
    return {"aurocs": plots.draw_gallery([np.zeros((2, 2, 3), np.uint8)], ["x"])}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets") / "avatars <b>& co"
    write_set(root)
    assert write_card(root, audited(root)) == [root / "card.md", root / "card.html"]
    return root


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / "card.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def markdown(folder: Path) -> str:
    return (folder / "card.md").read_text(encoding="utf-8")


def test_nothing_in_a_name_becomes_markup_of_the_page(page: Page) -> None:
    assert not any(tag == "script" for tag, _ in page.tags)
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert not any(tag == "b" for tag, _ in page.tags)
    assert page.words.count(EVIL) >= 4
    assert ODD in page.words


def test_nothing_in_a_name_becomes_markup_of_the_markdown(markdown: str) -> None:
    assert re.findall(r"<\w", markdown) == []
    assert "[d](e)" not in markdown
    tables = [line for line in markdown.splitlines() if line.startswith("|")]
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in tables if "PBM" in line or "empty file" in line}
    assert widths == {3}


def test_the_page_needs_no_other_file_and_no_network(page: Page) -> None:
    images = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert len(images) == 4  # the chart of counts, samples of two classes, and a figure
    assert all(source is not None and source.startswith("data:image/webp;base64,") for source in images)
    assert not any(tag in ("link", "iframe", "object") for tag, _ in page.tags)
    assert not any("http" in (value or "") for tag, attrs in page.tags for name, value in attrs.items())


@pytest.mark.parametrize("kind", ["page", "markdown"])
def test_the_card_begins_with_the_assessment(kind: str, request: pytest.FixtureRequest) -> None:
    card = request.getfixturevalue(kind)
    words = card.words if isinstance(card, Page) else card.replace("\\", "")
    order = [
        "no",
        "the file alone, without the image, predicts a class",
        "Warnings",
        "Images",
        "Sources",
        "0.93 (0.91 to 0.95)",
    ]
    places = [words.index(part) for part in order]
    assert places == sorted(places)
    for part in (
        "Images for training and testing: 12; external test set (blind): 2; out of domain: 0.",
        "CC0",
        "0.51 (0.45 to 0.57)",
        "no source is known",
    ):
        assert part in words
    for part in (
        "After data.equalise=jpeg",
        "format (0.93)",
        "Files excluded: 2",
        "empty file",
        "Two cautions",
        "c2pa",
    ):
        assert part in words.replace("`", "").replace("**", "")
    assert "data.blind=DIR/blind.csv data.equalise=jpeg" in words
    assert "is this set suitable" not in words  # it stands above, in its own words


def test_the_page_allows_its_own_style_alone(tmp_path: Path) -> None:
    write_set(tmp_path)
    write_card(tmp_path, audited(tmp_path))
    text = (tmp_path / "card.html").read_text(encoding="utf-8")
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    (policy,) = [
        attrs["content"] for tag, attrs in Page(text).tags if attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy == (
        f"default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; style-src 'sha256-{digest}'"
    )
    assert not [attrs for _, attrs in Page(text).tags if "style" in attrs]
