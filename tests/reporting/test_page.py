"""The page as a whole: true to what is saved, and proof against names."""

import base64
import hashlib
import io
import json
import re
from urllib.parse import unquote

import pandas as pd
import pytest

from avatar_bench.cli.app import main
from avatar_bench.i18n import use_language
from avatar_bench.reporting.page import make_slugs, write_report
from avatar_bench.reporting.study import read_study
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric
from tests.builders.commands import change_record
from tests.builders.parsed_page import Page
from tests.builders.run_files import write_file
from tests.reporting.conftest import (
    accuracy,
    balanced,
    checkpoint,
    write_ensemble,
    write_ranking,
    write_result,
    write_run,
)

EVIL = "<script>alert(1)</script>"


def write(runs, language="en"):
    with use_language(language):
        write_report(read_study(runs), runs / "report.html", language)
    return Page(runs / "report.html")


def read_csv(page, name):
    (address,) = [str(attrs["href"]) for _, attrs in page.tags if attrs.get("download") == f"{name}.csv"]
    return pd.read_csv(io.StringIO(unquote(address.partition(",")[2])))


def list_links(page):
    return [unquote(link) for link in page.list_values("href", "a") if not link.startswith(("#", "data:"))]


def test_the_page_has_its_numbers_in_full_links_to_files_and_allows_its_own_style_and_script_alone(report):
    page = Page(report)
    texts = [str(attrs["alt"]) for tag, attrs in page.tags if tag == "img" and attrs.get("src")]
    assert len(texts) == 5  # the counts too
    assert any("good, on test. accuracy: 0.900 [0.850, 0.950]." in text for text in texts)
    links = list_links(page)
    assert len(links) >= 20
    links += [unquote(link) for link in re.findall(r"\]\(([^)]+)\)", report.with_suffix(".md").read_text())]
    assert [link for link in links if not (report.parent / link).exists()] == []
    board, table = read_csv(page, "leaderboard_blind_blind0"), read_csv(page, "provenance")
    assert list(board["model"]) == ["good", "poor"]
    assert board[["accuracy", "accuracy low"]].to_numpy().ravel() == pytest.approx([0.7, 0.65, 0.4, 0.35])
    assert len(table) == 4
    row = table[(table["model"] == "good") & (table["set"] == "blind")].iloc[0]
    columns = ["checkpoint, SHA-256", "block", "data fingerprint", "seed"]
    assert row[columns].tolist() == [checkpoint("good"), "blind_test", "blind0", 1]
    parts = ("Is this avatar", "good has the highest accuracy of 2 models", "Leaderboard on blind", "Caveats")
    start = page.words.index("Report on runs", 100)  # the order of the first screen
    places = [page.words.index(part, start) for part in (*parts, "Meaning of the classes")]
    assert places == sorted(places)
    assert page.words.index("Leaderboard on test") > places[-1]
    (policy,) = [attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:;")
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_the_same_study_gives_the_same_page_with_stable_slugs_whatever_the_members_are_said_to_be(runs, report):
    assert write(runs).text == report.read_text(encoding="utf-8")
    assert not list(runs.glob(".*"))
    slug = make_slugs()
    slugs = [slug("model", "A b"), slug("model", "a-b"), slug("model", "A b"), slug("Слово")]
    assert (slugs[0], slugs[2], slugs[3]) == ("model-a-b", "model-a-b", "part")
    assert slugs[1] != "model-a-b"
    for members, others in ((5, "x"), ([5], [])):
        change_record(runs / "good", members=members)
        change_record(runs / "poor", members=others)
        assert "good" in write(runs).words


def test_figures_and_folders_of_images_are_linked_where_they_lie_and_nothing_is_copied(runs, tmp_path):
    images = [f"overlays/{row:04d}_face" for row in (1, 2)]
    write_result(runs / "good", "gradcam", metrics={"deletion": accuracy(0.5)}, figures=["panels"], images=images)
    before = {file for file in runs.rglob("*") if file.is_file()}
    folder = tmp_path / "elsewhere, [1]"
    write_report(read_study(runs), folder / "page.html", "en")
    assert {file for file in runs.rglob("*") if file.is_file()} == before
    assert {file.name for file in folder.iterdir()} == {"page.html", "page.md"}
    files = {f"../runs/good/evaluation/test/blind_test/{name}" for name in ("confusion.png", "confusion.svg")}
    page = Page(folder / "page.html")
    links = list_links(page)
    assert files | {"../runs/good/evaluation/test/blind_test/metrics.json"} <= set(links)
    assert "../runs/good/evaluation/test/gradcam/overlays/" in links
    assert "good: overlays (2 files)" in page.words
    assert not any("_face" in address for address in links + page.list_values("src"))  # they are no figures


@pytest.mark.slow
def test_the_page_stays_under_its_limit_whatever_it_holds(runs):
    metrics = {"accuracy": accuracy(0.9)} | {f"recall/{k}": accuracy(0.5) for k in range(400)}
    write_result(runs / "good", "robustness", "test", metrics, figures=[f"figure_{k}" for k in range(6)])
    file, study = runs / "report.html", read_study(runs)
    whole = len(write(runs).text.encode())
    for fraction in (0.8, 0.4):
        write_report(study, file, "en", largest=int(whole * fraction))
        assert file.stat().st_size <= whole * fraction
        page = Page(file)
        assert "Leaderboard on blind" in page.words
        assert "figure_5.png" in page.text  # what is left out is linked to
        assert [link for link in list_links(page) if not (runs / link).exists()] == []


def test_the_page_names_what_to_heed(runs):
    texts = [f"Main metrics on test, 90 images, only fingerprint {digest}" for digest in ("test0", "other")]
    texts += ["Runs were evaluated on different images under the name test", "Guard overlap was overridden for good."]
    texts += ["Data audit, suitable data: no. the file alone, without the image, predicts a class: AUROC 0.90"]
    texts += ["Meaning of the classes.", "does not transfer to others", "poor/evaluation/test/robustness"]
    unsuitable = {"suitable": "no", "reasons": [{"code": "file", "value": 0.9}]}
    before = write(runs).words
    for run, block, provenance in (
        ("good", "robustness", {"allow": ["overlap"]}),
        ("poor", "blind_test", {"data_fingerprint": "other"}),
        ("good", "data_audit", {"assessment": unsuitable}),
        ("poor", "robustness", {"checkpoint_sha256": "0" * 64}),
    ):
        write_result(runs / run, block, "test", {"accuracy": accuracy(0.6)}, **provenance)
    words = write(runs).words
    assert [text for text in texts if text not in words] == []
    assert [text for text in texts if text in before] == ["Meaning of the classes.", "does not transfer to others"]


def test_visible_marks_of_the_audit_are_folded_with_their_images(runs):
    columns = ("position", "class", "auroc", "low", "high", "p", "p_search", "mark", "images")
    marks = pd.DataFrame([("top_left", "real", 0.9, 0.8, 0.95, 0.001, 0.002, "m1", 30)], columns=columns)
    assessment = {"suitable": "with_care", "reasons": []}
    about = {"images": ["marks/m1"], "assessment": assessment}
    write_result(runs / "good", "data_audit", "test", {"marks": Metric(1, 30)}, {"marks": marks}, **about)
    text = "m1, 'real': top left, 30 images; AUROC 0.90 (0.80 to 0.95), p = 0.001"
    page = write(runs)
    assert text in page.words
    assert text in [attrs["alt"] for tag, attrs in page.tags if tag == "img"]
    assert f"- {text}" in (runs / "report.md").read_text()
    assert "изображений — 30; AUROC 0.90 (от 0.80 до 0.95)" in write(runs, "ru").words


def test_runs_files_and_metrics_that_are_missing_are_named_with_the_reason(runs):
    write_run(runs, "late", status="interrupted")
    for name in ("per_source.csv", "confusion.png"):
        (runs / "good" / "evaluation" / "test" / "blind_test" / name).unlink()
    metrics = {"robustness": Metric(None, 0, reason=Reason("class_absent", name="real"))}
    write_result(runs / "good", "robustness", "test", metrics)
    words, reason = write(runs).words, "The set has no image of class real"
    for text in ("its status is interrupted", "missing files: per_source.csv", "Missing: ", reason):
        assert text in words
    assert f"none: {reason}" in (runs / "report.md").read_text()


def test_names_stay_text(runs):
    odd = "a\"b'|`c` [d](e) ${x} {{ 7*7 }} & " + EVIL
    folder = write_run(runs, "run <b>x<!--", experiment=odd)
    write_run(runs, "javascript:alert(1)")
    metrics = {"accuracy": accuracy(0.7), f"recall/{EVIL}": accuracy(0.7)}
    sources = pd.DataFrame({"source": [odd], "target": [EVIL], "n": [90], "groups": [80]})
    about = {"classes": (EVIL, odd), "allow": [EVIL]}
    write_result(folder, "blind_test", "test", metrics, {"per_source": sources}, ["confusion"], **about)
    write_result(folder, "block <i>", "test", {EVIL: accuracy(0.1)})
    write_ranking(runs, "test", [(odd, 0.9, 0.85, 0.95, 1, 1, True, EVIL)])
    page = write(runs, "ru")
    tags, links = [tag for tag, _ in page.tags], page.list_values("href", "a")
    assert ("html", {"lang": "ru"}) in page.tags
    assert tags.count("script") == 1
    assert {"b", "i"}.isdisjoint(tags)
    assert EVIL in page.words
    assert "{{ 7*7 }}" in page.words
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert "javascript%3Aalert%281%29" in links
    assert not [link for link in links if link.strip().lower().startswith("javascript:")]
    assert "<code>alpha</code>" in page.text  # of our own words
    assert "<code>c</code>" not in page.text
    marked = (runs / "report.md").read_text()
    assert "<script" not in marked
    assert "[d](e)" not in marked
    assert "\\`c\\`" in marked


def test_what_was_not_evaluated_is_one_line_at_the_end_of_overview(runs):
    labels = ("efficiency", "poor")  # a run may be called like a block
    write_result(runs / "good", "calibration", "test", {"ece_15": accuracy(0.1)})
    folder = write_result(runs, "overview", "test", {f"accuracy/{label}": accuracy(0.7) for label in labels})
    saved = json.loads((folder / "metrics.json").read_text())
    saved["warnings"] = [
        {"code": "different_images", "groups": "efficiency | poor"},
        {"code": "not_evaluated", "runs": ["efficiency", "poor"], "blocks": ["calibration"]},
        {"code": "not_evaluated", "runs": ["efficiency"], "blocks": ["gradcam"]},
        {"code": "charts_left_out", "charts": ["speed_size"]},
    ]
    (folder / "metrics.json").write_text(json.dumps(saved))
    words, line = write(runs).words, "Blocks without results on this set: calibration (efficiency, poor), gradcam"
    assert line in words
    assert "speed_size" not in words  # a chart, which lacks what these blocks have not evaluated
    assert "no usable result" not in words
    section = words.index("Overview: the models side by side", words.index("Comparison of models", 3000))
    warning = words.index("The runs were evaluated on different images", section)
    assert warning < words.index("Blocks without results", section)
    assert f"{line}\n" in (runs / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("language", "text"), [("en", "gain in accuracy, soft vote: "), ("ru", "прирост доли верных ответов, мягкое")]
)
def test_figures_and_tables_name_metrics_and_strategies(language, text, runs):
    table = pd.DataFrame({"strategy": ["soft_vote"], "gain": [0.1]})
    write_result(runs, "ensemble", "test", {"gain/soft_vote": accuracy(0.1)}, {"strategies": table}, ["gain"])
    differences = {"calibration/accuracy": accuracy(0.1)}
    write_result(runs / "good", "against", "test", differences, figures=["differences"])
    page = write(runs, language)
    alts = page.list_values("alt", "img")
    assert any(text in alt for alt in alts)
    assert not any("soft_vote" in alt or "calibration/" in alt for alt in alts)
    assert "soft_vote" not in page.words.partition("ensemble")[2].partition("gain/")[0]


def test_ensembles_are_marked_without_a_rank_and_name_their_members(runs):
    write_ensemble(runs, "greedy", 0.92)
    write_ensemble(runs, "soup", 0.91, kind="soup")
    metrics = {"accuracy": accuracy(0.9), "balanced_accuracy": balanced(0.88), "macro_f1": accuracy(0.87)}
    write_result(runs / "good", "blind_test", "test", metrics)
    page = write(runs)
    assert "good (0.500)" in page.words
    board = read_csv(page, "leaderboard_test_test0")
    assert list(board["model"]) == ["good", "poor", "greedy (ensemble)", "soup (weight soup)"]
    assert board["macro_f1"].iloc[0] == 0.87
    assert list(board["rank"].iloc[2:]) == ["none: combines the runs, not ranked"] * 2
    marked = (runs / "report.md").read_text()
    assert "\n| greedy (ensemble) | none: combines the runs, not ranked | 0.920" in marked
    assert "\n| soup (weight soup) |" in marked
    assert "Ensembles have no rank" in marked


def test_evaluations_of_an_external_set_are_counted_over_runs_and_comparisons(runs):
    write_result(runs / "good", "blind_test", "blind", {"accuracy": accuracy(0.9)}, evaluated={"f": "blind"})
    logged = {"good": ["1a", "1a", "2a"], "poor": ["1b"], ".": ["1a", "3b"]}  # a command and a checkpoint each
    for folder, evaluations in logged.items():
        row = '{{"fingerprint": "f", "command": "{}", "runs": [{{"checkpoint_sha256": "{}"}}]}}\n'
        text = "".join(row.format(*evaluation) for evaluation in evaluations)
        write_file(runs / folder / "evaluation" / "log.jsonl", text)
    for language, text in (
        ("en", "External set blind: evaluated 4 times on 2 runs."),
        ("ru", "Внешний набор blind: оценён 4 раза на 2 запусках."),
    ):
        assert main(["report", f"runs={runs}", f"lang={language}"]) == 0
        for name in ("report.html", "report.md"):
            assert text in (runs / name).read_text(encoding="utf-8")
