"""The page as a whole: whole without a network, true to what is saved, and proof against names."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import pandas as pd
import pytest

from avatar_bench.cli.app import main
from avatar_bench.i18n import use_language
from avatar_bench.reporting.page import make_slugs, write_report
from avatar_bench.reporting.study import read_study
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric

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


def test_the_page_needs_no_other_file(runs: Path) -> None:
    page = written(runs)
    assert {tag for tag, _ in page.tags}.isdisjoint({"iframe", "object", "embed", "base"})
    assert page.of("script", "src") == []
    assert all(address.startswith("data:") for address in page.of("img", "src") if address)
    assert all(attrs["href"] == "data:," for tag, attrs in page.tags if tag == "link")
    assert not re.search(r"(?:src|href|url)\s*[=(]\s*[\"']?(?:https?:)?//", page.text)


def test_every_figure_has_words_and_every_id_is_its_own(runs: Path) -> None:
    page = written(runs)
    said = [str(attrs.get("alt")) for tag, attrs in page.tags if tag == "img" and attrs.get("src")]
    assert len(said) == 5  # the counts too
    assert any("good, on test. accuracy: 0.900 [0.850, 0.950]." in alt for alt in said)
    ids = [str(attrs["id"]) for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    within = {address[1:] for address in page.of("a", "href") if address.startswith("#")}
    assert within <= set(ids)


def test_headings_leave_out_no_level(runs: Path) -> None:
    levels = [int(tag[1]) for tag, _ in written(runs).tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_every_link_leads_somewhere(runs: Path) -> None:
    page = written(runs)
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


def test_folders_of_images_are_linked_and_their_images_are_no_figures(runs: Path, make: SimpleNamespace) -> None:
    images = [f"overlays/{row:04d}_face" for row in (1, 2)]
    make.result(runs / "good", "gradcam", metrics={"deletion": make.accuracy(0.5)}, figures=["panels"], images=images)
    page = written(runs)
    assert "good/evaluation/test/gradcam/overlays/" in page.of("a", "href")
    assert "good: overlays (2 files)" in page.words
    assert not any("_face" in address for address in page.of("a", "href") + page.of("img", "src"))


def csv_of(page: Page, name: str) -> pd.DataFrame:
    (address,) = [str(attrs["href"]) for _, attrs in page.tags if attrs.get("download") == f"{name}.csv"]
    return pd.read_csv(io.StringIO(unquote(address.partition(",")[2])))


def test_the_leader_board_gives_its_numbers_in_full(runs: Path) -> None:
    board = csv_of(written(runs), "leaderboard_blind_blind0")
    assert list(board["model"]) == ["good", "poor"]
    assert board["accuracy"].tolist() == pytest.approx([0.7, 0.4])
    assert board["accuracy low"].tolist() == pytest.approx([0.65, 0.35])


def test_every_number_has_an_origin(runs: Path, make: SimpleNamespace) -> None:
    table = csv_of(written(runs), "provenance")
    assert len(table) == 4
    row = table[(table["model"] == "good") & (table["set"] == "blind")].iloc[0]
    assert row["checkpoint, SHA-256"] == make.checkpoint("good")
    assert (row["block"], row["data fingerprint"], row["seed"]) == ("blind_test", "blind0", 1)


def test_the_page_stays_under_its_limit_whatever_it_holds(runs: Path, make: SimpleNamespace) -> None:
    metrics = {"accuracy": make.accuracy(0.9)} | {f"recall/{k}": make.accuracy(0.5) for k in range(400)}
    make.result(runs / "good", "robustness", "test", metrics, figures=[f"figure_{k}" for k in range(6)])
    page, study = runs / "report.html", read_study(runs)
    whole = len(written(runs).text.encode())
    for share in (0.95, 0.8, 0.6, 0.4):
        write_report(study, page, "en", largest=int(whole * share))
        assert page.stat().st_size <= whole * share
        found = Page(page)
        assert "Leaderboard on blind" in found.words
        assert "figure_5.png" in found.text  # what is left out is linked to
        assert [
            link for link in found.of("a", "href") if not (runs / unquote(link)).exists() and link[0] not in "#d"
        ] == []


def test_the_first_screen_holds_answer_board_warnings_and_cautions_in_this_order(runs: Path) -> None:
    words = written(runs).words
    parts = (
        "Is this avatar",
        "good has the highest accuracy of 2 models",
        "Leaderboard on blind",
        "Caveats",
        "Meaning of the classes",
    )
    places = [words.index(part, words.index("Report on runs", 100)) for part in parts]
    assert places == sorted(places)
    assert words.index("Leaderboard on test") > places[-1]


def test_our_own_words_bear_code_and_those_of_others_do_not(runs: Path, make: SimpleNamespace) -> None:
    make.ranking(runs, "test", [("good", 0.9, 0.8, 1.0, 1, 2, True, "`a`"), ("poor", 0.6, 0.5, 0.7, 1, 2, True, "a")])
    page = written(runs)
    assert "<code>alpha</code>" in page.text
    assert "<code>a</code>" not in page.text
    marked = (runs / "report.md").read_text()
    assert "`alpha`" in marked
    assert "\\`a\\`" in marked


def test_a_value_that_is_null_says_why(runs: Path, make: SimpleNamespace) -> None:
    metrics = {"robustness": Metric(None, 0, reason=Reason("class_absent", name="real"))}
    make.result(runs / "good", "robustness", "test", metrics)
    page = written(runs)
    assert "The set has no image of class real" in page.words
    assert "none: The set has no image of class real" in (runs / "report.md").read_text()


def test_what_cannot_be_used_is_named(runs: Path, make: SimpleNamespace) -> None:
    make.run(runs, "late", status="interrupted")
    make.result(runs / "poor", "robustness", "test", checkpoint_sha256="0" * 64)
    for name in ("per_source.csv", "confusion.png"):
        (runs / "good" / "evaluation" / "test" / "blind_test" / name).unlink()
    page = written(runs)
    for text in ("its status is interrupted", "poor/evaluation/test/robustness", "missing files: per_source.csv"):
        assert text in page.words
    assert "Missing: " in page.words


def test_different_images_stand_in_tables_of_their_own(runs: Path, make: SimpleNamespace) -> None:
    make.result(runs / "poor", "blind_test", "test", {"accuracy": make.accuracy(0.6)}, data_fingerprint="other")
    page = written(runs)
    assert "Runs were evaluated on different images under the name test" in page.words
    for fingerprint in ("test0", "other"):
        assert f"Main metrics on test, 90 images, only fingerprint {fingerprint}" in page.words


def test_guards_that_were_passed_are_said(runs: Path, make: SimpleNamespace) -> None:
    make.result(runs / "good", "robustness", "test", {"robustness": make.accuracy(0.5)}, allow=["overlap"])
    assert "Guard overlap was overridden for good." in written(runs).words


def test_the_assessment_of_the_audit_is_shown_with_both_cautions(runs: Path, make: SimpleNamespace) -> None:
    assessment = {"suitable": "no", "reasons": [{"code": "file", "value": 0.9}]}
    make.result(runs / "good", "data_audit", "test", {"metadata_auroc": make.accuracy(0.9)}, assessment=assessment)
    page = written(runs)
    assert (
        "Data audit, suitable data: no. the file alone, without the image, predicts a class: AUROC 0.90" in page.words
    )
    assert "Meaning of the classes." in page.words
    assert "does not transfer to others" in page.words


@pytest.mark.parametrize("language", ["en", "ru"])
def test_names_stay_text(language: str, runs: Path, make: SimpleNamespace) -> None:
    odd = "a\"b'|`c` [d](e) ${x} {{ 7*7 }} & " + EVIL
    folder = make.run(runs, "run <b>x<!--", experiment=odd)
    metrics = {"accuracy": make.accuracy(0.7), f"recall/{EVIL}": make.accuracy(0.7)}
    sources = pd.DataFrame({"source": [odd], "target": [EVIL], "n": [90], "groups": [80]})
    make.result(
        folder, "blind_test", "test", metrics, {"per_source": sources}, ["confusion"], classes=(EVIL, odd), allow=[EVIL]
    )
    make.result(folder, "block <i>", "test", {EVIL: make.accuracy(0.1)})
    make.ranking(runs, "test", [(odd, 0.9, 0.85, 0.95, 1, 1, True, EVIL)])
    page = written(runs, language)
    scripts = [tag for tag, _ in page.tags if tag == "script"]
    assert len(scripts) == 1
    assert {tag for tag, _ in page.tags}.isdisjoint({"b", "i"})
    assert EVIL in page.words
    assert "{{ 7*7 }}" in page.words
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    marked = (runs / "report.md").read_text()
    assert "<script" not in marked
    assert "[d](e)" not in marked


def test_what_was_not_evaluated_is_one_line_at_the_end_of_overview(runs: Path, make: SimpleNamespace) -> None:
    labels = ("efficiency", "poor")  # a run may be called like a block
    make.result(runs / "good", "calibration", "test", {"ece_15": make.accuracy(0.1)})
    folder = make.result(runs, "overview", "test", {f"accuracy/{label}": make.accuracy(0.7) for label in labels})
    saved = json.loads((folder / "metrics.json").read_text())
    saved["warnings"] = [
        {"code": "different_images", "groups": "efficiency | poor"},
        {"code": "not_evaluated", "runs": ["efficiency", "poor"], "blocks": ["calibration"]},
        {"code": "not_evaluated", "runs": ["efficiency"], "blocks": ["gradcam"]},
        {"code": "charts_left_out", "charts": ["speed_size"]},
    ]
    (folder / "metrics.json").write_text(json.dumps(saved))
    words = written(runs).words
    assert "Blocks without results on this set: calibration (efficiency, poor), gradcam" in words
    assert "speed_size" not in words  # a chart, which lacks what these blocks have not evaluated
    assert "no usable result" not in words
    section = words.index("Overview: the models side by side", words.index("Comparison of models", 3000))
    warning = words.index("The runs were evaluated on different images", section)
    assert warning < words.index("Blocks without results", section)
    plain = (runs / "report.md").read_text(encoding="utf-8")
    assert "Blocks without results on this set: calibration (efficiency, poor), gradcam\n" in plain


@pytest.mark.parametrize(
    ("language", "said"), [("en", "gain in accuracy, soft vote: "), ("ru", "прирост доли верных ответов, мягкое")]
)
def test_figures_and_tables_name_metrics_and_strategies(
    language: str, said: str, runs: Path, make: SimpleNamespace
) -> None:
    table = pd.DataFrame({"strategy": ["soft_vote"], "gain": [0.1]})
    metrics = {"gain/soft_vote": make.accuracy(0.1)}
    make.result(runs, "ensemble", "test", metrics, {"strategies": table}, ["gain"])
    make.result(runs / "good", "against", "test", {"calibration/accuracy": make.accuracy(0.1)}, figures=["differences"])
    page = written(runs, language)
    alts = page.of("img", "alt")
    assert any(said in alt for alt in alts)
    assert not any("soft_vote" in alt or "calibration/" in alt for alt in alts)
    assert "soft_vote" not in page.words.partition("ensemble")[2].partition("gain/")[0]


def test_the_same_study_gives_the_same_page(runs: Path) -> None:
    first = written(runs).text
    assert written(runs).text == first
    assert not list(runs.glob(".*"))


def test_a_page_in_russian_says_so(runs: Path) -> None:
    page = written(runs, "ru")
    assert ("html", {"lang": "ru"}) in page.tags


@pytest.mark.parametrize("members", [5, [5], "x"])
def test_members_that_are_none_are_not_named(members: object, runs: Path) -> None:
    file = runs / "good" / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"members": members}))
    write_report(read_study(runs), runs / "report.html", "en")
    assert "good" in (runs / "report.html").read_text(encoding="utf-8")


def test_an_ensemble_names_its_members_by_their_labels(runs: Path, make: SimpleNamespace) -> None:
    folder = runs / "ensembles" / "soft_vote"
    folder.mkdir(parents=True)
    members = [{"run": "x/best.ckpt", "checkpoint_sha256": make.checkpoint("good"), "weight": 0.25}]
    (folder / "ensemble.json").write_text(json.dumps({"kind": "ensemble", "members": members}))
    make.result(folder, "blind_test", "test", {"accuracy": make.accuracy(0.92)})
    assert "good (0.250)" in written(runs).words


def test_the_leaderboard_has_macro_f1_and_marks_ensembles(runs: Path, make: SimpleNamespace) -> None:
    make.ensemble(runs, "greedy", 0.92)
    make.ensemble(runs, "soup", 0.91, kind="soup")
    metrics = {
        "accuracy": make.accuracy(0.9),
        "balanced_accuracy": make.balanced(0.88),
        "macro_f1": make.accuracy(0.87),
    }
    make.result(runs / "good", "blind_test", "test", metrics)
    board = csv_of(written(runs), "leaderboard_test_test0")
    assert list(board["model"]) == ["good", "poor", "greedy (ensemble)", "soup (weight soup)"]
    assert board["macro_f1"].iloc[0] == 0.87
    assert list(board["rank"].iloc[2:]) == ["none: combines the runs, not ranked"] * 2
    rows = [line for line in (runs / "report.md").read_text().splitlines() if line.startswith(("| greedy", "| soup"))]
    assert rows[0].startswith("| greedy (ensemble) | none: combines the runs, not ranked | 0.920")
    assert any(row.startswith("| soup (weight soup) |") for row in rows)
    assert "Ensembles have no rank" in (runs / "report.md").read_text()


def test_slugs_are_stable_and_apart() -> None:
    slug = make_slugs()
    assert slug("model", "A b") == "model-a-b"
    assert slug("model", "a-b") != "model-a-b"
    assert slug("model", "A b") == "model-a-b"
    assert slug("Слово") == "part"


def test_the_page_allows_its_own_style_and_script_alone(runs: Path) -> None:
    page = written(runs)
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
        rows = [
            {"fingerprint": "f", "command": evaluation[0], "runs": [{"checkpoint_sha256": evaluation[1]}]}
            for evaluation in evaluations
        ]
        file = runs / folder / "evaluation" / "log.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    assert main(["report", f"runs={runs}"]) == 0
    page = (runs / "report.html").read_text(encoding="utf-8")
    assert "External set blind: evaluated 4 times on 2 runs." in page
    assert "External set blind: evaluated 4 times on 2 runs." in (runs / "report.md").read_text(encoding="utf-8")
    assert main(["report", f"runs={runs}", "lang=ru"]) == 0
    assert "Внешний набор blind: оценён 4 раза на 2 запусках." in (runs / "report.html").read_text(encoding="utf-8")
