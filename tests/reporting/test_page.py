"""The page as a whole: whole without a network, true to what is saved, and proof against names."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import pandas as pd
import pytest

from avatar_bench.cli.app import main
from avatar_bench.i18n import use_language
from avatar_bench.reporting.page import write_report
from avatar_bench.reporting.study import read_study

EVIL = "<script>alert(1)</script>"


class Page(HTMLParser):
    """Collect the tags, the words, the headings and the addresses of a page."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.text = file.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self._silent = 0
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._silent += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        self.words += "" if self._silent else data

    def of(self, tag: str, name: str) -> list[str]:
        return [str(attrs[name]) for found, attrs in self.tags if found == tag and name in attrs]


def written(runs: Path, language: str = "en") -> Page:
    with use_language(language):
        write_report(read_study(runs), runs / "report.html", language)
    return Page(runs / "report.html")


@pytest.fixture(scope="module")
def plain(evaluated_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Page]:
    """The evaluated runs with their report, and its page."""
    copy = Path(shutil.copytree(evaluated_runs, tmp_path_factory.mktemp("plain") / "runs"))
    return copy, written(copy)


def test_the_page_needs_no_other_file_and_every_link_leads_somewhere(plain: tuple[Path, Page]) -> None:
    runs, page = plain
    assert {tag for tag, _ in page.tags}.isdisjoint({"iframe", "object", "embed", "base"})
    assert page.of("script", "src") == []
    assert all(address.startswith("data:") for address in page.of("img", "src") if address)
    assert all(attrs["href"] == "data:," for tag, attrs in page.tags if tag == "link")
    assert not re.search(r"(?:src|href|url)\s*[=(]\s*[\"']?(?:https?:)?//", page.text)
    said = [str(attrs.get("alt")) for tag, attrs in page.tags if tag == "img" and attrs.get("src")]
    assert any("good, on test. accuracy: 0.900 [0.850, 0.950]." in alt for alt in said)
    links = [unquote(address) for address in page.of("a", "href") if not address.startswith(("#", "data:"))]
    assert len(links) >= 20
    assert [link for link in links if not (runs / link).exists()] == []
    marked = re.findall(r"\]\(([^)]+)\)", (runs / "report.md").read_text())
    assert [link for link in marked if not (runs / unquote(link)).exists()] == []


def test_figures_are_linked_where_they_lie_and_nothing_is_copied(runs: Path, tmp_path: Path) -> None:
    before = {file for file in runs.rglob("*") if file.is_file()}
    folder = tmp_path / "elsewhere, [1]"
    write_report(read_study(runs), folder / "page.html", "en")
    assert {file for file in runs.rglob("*") if file.is_file()} == before
    assert {file.name for file in folder.iterdir()} == {"page.html", "page.md"}
    place = "../runs/good/evaluation/test/blind_test"
    links = Page(folder / "page.html").of("a", "href")
    assert {f"{place}/confusion.png", f"{place}/confusion.svg", f"{place}/metrics.json"} <= set(links)


def csv_of(page: Page, name: str) -> pd.DataFrame:
    (address,) = [str(attrs["href"]) for _, attrs in page.tags if attrs.get("download") == f"{name}.csv"]
    return pd.read_csv(io.StringIO(unquote(address.partition(",")[2])))


def test_the_leader_board_gives_its_numbers_in_full_and_their_origin(
    plain: tuple[Path, Page], make: SimpleNamespace
) -> None:
    board = csv_of(plain[1], "leaderboard_blind_blind0")
    assert list(board["model"]) == ["good", "poor"]
    assert board["accuracy"].tolist() == pytest.approx([0.7, 0.4])
    assert board["accuracy low"].tolist() == pytest.approx([0.65, 0.35])
    table = csv_of(plain[1], "provenance")
    assert len(table) == 4
    row = table[(table["model"] == "good") & (table["set"] == "blind")].iloc[0]
    assert row["checkpoint, SHA-256"] == make.checkpoint("good")
    assert (row["block"], row["data fingerprint"], row["seed"]) == ("blind_test", "blind0", 1)


def test_the_page_stays_under_its_limit_whatever_it_holds(runs: Path, make: SimpleNamespace) -> None:
    metrics = {"accuracy": make.accuracy(0.9)} | {f"recall/{k}": make.accuracy(0.5) for k in range(400)}
    make.result(runs / "good", "robustness", "test", metrics, figures=[f"figure_{k}" for k in range(6)])
    page, study = runs / "report.html", read_study(runs)
    whole = len(written(runs).text.encode())
    for share in (0.8, 0.4):
        write_report(study, page, "en", largest=int(whole * share))
        assert page.stat().st_size <= whole * share
        found = Page(page)
        assert "Leaderboard on blind" in found.words
        assert "figure_5.png" in found.text  # what is left out is linked to
        assert [
            link for link in found.of("a", "href") if not (runs / unquote(link)).exists() and link[0] not in "#d"
        ] == []


def test_the_first_screen_holds_answer_board_warnings_and_cautions_in_this_order(plain: tuple[Path, Page]) -> None:
    words, answer = plain[1].words, "good has the highest accuracy of 2 models"
    parts = ("Is this avatar", answer, "Leaderboard on blind", "Caveats", "Meaning of the classes")
    places = [words.index(part, words.index("Report on runs", 100)) for part in parts]
    assert places == sorted(places)
    assert words.index("Leaderboard on test") > places[-1]


def test_what_cannot_be_used_is_named(runs: Path, make: SimpleNamespace) -> None:
    make.run(runs, "late", status="interrupted")
    make.result(runs / "poor", "robustness", "test", checkpoint_sha256="0" * 64)
    for name in ("per_source.csv", "confusion.png"):
        (runs / "good" / "evaluation" / "test" / "blind_test" / name).unlink()
    page = written(runs)
    for text in ("its status is interrupted", "poor/evaluation/test/robustness", "missing files: per_source.csv"):
        assert text in page.words
    assert "Missing: " in page.words


def test_guards_that_were_passed_and_the_assessment_of_the_audit_are_said(runs: Path, make: SimpleNamespace) -> None:
    make.result(runs / "good", "robustness", "test", {"robustness": make.accuracy(0.5)}, allow=["overlap"])
    assessment = {"suitable": "no", "reasons": [{"code": "file", "value": 0.9}]}
    make.result(runs / "good", "data_audit", "test", {"metadata_auroc": make.accuracy(0.9)}, assessment=assessment)
    words = written(runs).words
    assert "Guard overlap was overridden for good." in words
    assert "Data audit, suitable data: no. the file alone, without the image, predicts a class: AUROC 0.90" in words
    assert "does not transfer to others" in words


def test_names_stay_text(runs: Path, make: SimpleNamespace) -> None:
    odd = "a\"b'|`c` [d](e) ${x} {{ 7*7 }} & " + EVIL
    folder = make.run(runs, "run <b>x<!--", experiment=odd)
    metrics = {"accuracy": make.accuracy(0.7), f"recall/{EVIL}": make.accuracy(0.7)}
    sources = pd.DataFrame({"source": [odd], "target": [EVIL], "n": [90], "groups": [80]})
    make.result(
        folder, "blind_test", "test", metrics, {"per_source": sources}, ["confusion"], classes=(EVIL, odd), allow=[EVIL]
    )
    make.result(folder, "block <i>", "test", {EVIL: make.accuracy(0.1)})
    make.ranking(runs, "test", [(odd, 0.9, 0.85, 0.95, 1, 1, True, EVIL)])
    page = written(runs, "ru")
    assert ("html", {"lang": "ru"}) in page.tags
    scripts = [tag for tag, _ in page.tags if tag == "script"]
    assert len(scripts) == 1
    assert {tag for tag, _ in page.tags}.isdisjoint({"b", "i"})
    assert EVIL in page.words
    assert "{{ 7*7 }}" in page.words
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    marked = (runs / "report.md").read_text()
    assert "<script" not in marked
    assert "[d](e)" not in marked


def test_the_same_study_gives_the_same_page(plain: tuple[Path, Page]) -> None:
    runs, page = plain
    assert written(runs).text == page.text
    assert not list(runs.glob(".*"))


def test_the_page_allows_its_own_style_and_script_alone(plain: tuple[Path, Page]) -> None:
    page = plain[1]
    (policy,) = [attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy
    assert policy.startswith("default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:;")
    for tag in ("style", "script"):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_a_folder_named_like_an_address_is_linked_as_a_file(runs: Path, make: SimpleNamespace) -> None:
    make.run(runs, "javascript:alert(1)")
    links = written(runs).of("a", "href")
    assert "javascript%3Aalert%281%29" in links
    assert not [link for link in links if link.strip().lower().startswith("javascript:")]


def test_evaluations_of_an_external_set_are_counted_over_runs_and_comparisons(
    runs: Path, make: SimpleNamespace
) -> None:
    make.result(runs / "good", "blind_test", "blind", {"accuracy": make.accuracy(0.9)}, evaluated={"f": "blind"})
    logged = {"good": ["1a", "1a", "2a"], "poor": ["1b"], ".": ["1a", "3b"]}  # a command and a checkpoint each
    for folder, evaluations in logged.items():
        rows = [{"fingerprint": "f", "command": one[0], "runs": [{"checkpoint_sha256": one[1]}]} for one in evaluations]
        file = runs / folder / "evaluation" / "log.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    assert main(["report", f"runs={runs}"]) == 0
    page = (runs / "report.html").read_text(encoding="utf-8")
    assert "External set blind: evaluated 4 times on 2 runs." in page
    assert "External set blind: evaluated 4 times on 2 runs." in (runs / "report.md").read_text(encoding="utf-8")
    assert main(["report", f"runs={runs}", "lang=ru"]) == 0
    assert "Внешний набор blind: оценён 4 раза на 2 запусках." in (runs / "report.html").read_text(encoding="utf-8")
