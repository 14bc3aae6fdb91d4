"""Operating points in the report, without a browser: first numbers, sets, sizes, and files of other forms."""

import json

from avatar_bench.cli.app import main
from avatar_bench.reporting.operating_point import build_operating_point
from avatar_bench.reporting.study import read_study
from avatar_bench.results.declaration import declare_block
from tests.builders.parsed_page import Page
from tests.reporting.conftest import CLASSES, make_curve, write_result, write_run


def build(root):
    return build_operating_point(read_study(root), declare_block("decision"))


def test_the_page_begins_with_a_table_of_all_classes_and_sets(tmp_path):
    folder = write_run(tmp_path, "good")
    write_result(folder, "decision", "test", tables={"operating_curve": make_curve("test", "blind", "cats")})
    write_result(folder, "decision", "blind", tables={"operating_curve": make_curve("blind", "cats")})
    write_result(write_run(tmp_path, "old"), "decision", "test")  # saved before there were curves
    point = build(tmp_path)
    (curve,) = point.curves
    assert (point.classes, point.chosen, point.level, point.rate_level) == (list(CLASSES), "generated", 0.95, 0.975)
    assert [column["text"] for column in curve.table.columns] == ["metric", "blind", "test", "cats"]
    assert curve.table.texts[:5] == [
        ["answered images (%)", *["81.2 (70–90)"] * 3],
        ["errors among the answers (%)", *["10 (5–20)"] * 3],
        ["drawing: recall (%)", *["90 (80–95)"] * 3],
        ["drawing: false alarms in 1,000 images of other classes", *["10 (5–20)"] * 3],
        # .009 of .009 + .0099, with the ends .008 of .008 + .0198 and .0095 of .0095 + .00495
        ["drawing: precision at the prevalence (%)", *["47.6 (28.8–65.7)"] * 3],
    ]
    assert str(curve.table.href).endswith("good/evaluation/test/decision/operating_curve.csv")
    numbers = json.loads(curve.data)
    assert numbers["thresholds"] == [0, 0.9, 1]
    assert numbers["sets"][0][1] == [[0.1, 0.1, None], [0.05, 0.05, None], [0.2, 0.2, None]]
    assert {0.0001, 0.001, 0.01, 0.1, 0.5} < {*point.prevalences}


def test_pages_show_it_in_both_languages_and_one_without_curves_has_none(tmp_path, report):
    curves = {"operating_curve": make_curve("test")}
    write_result(write_run(tmp_path, "good"), "decision", "test", tables=curves)
    for language, text in (("en", "Operating point of good"), ("ru", "Рабочая точка: good")):
        assert main(["report", f"runs={tmp_path}", f"lang={language}"]) == 0
        page = Page(tmp_path / "report.html")
        assert text in page.words
        assert text in (tmp_path / "report.md").read_text(encoding="utf-8")
        assert page.list_values("type", "input").count("range") == 2
        assert len(page.list_values("data-curve")) == 1
    assert Page(report).list_values("class", "form") == ["models"]


def test_further_sets_end_where_a_page_has_no_room_and_the_first_is_always_there(tmp_path):
    folder, grid = write_run(tmp_path, "good"), tuple(k / 40 for k in range(41))
    curves = make_curve(*(f"s{k}" for k in range(12)), thresholds=grid)
    write_result(folder, "decision", tables={"operating_curve": curves})
    (curve,) = build(tmp_path).curves
    assert 5 < len(json.loads(curve.data)["sets"]) == len(curve.table.columns) - 1 < 12
    assert len(curve.data) <= 40_000
    many = tuple(f"class{k}" for k in range(60))
    table = make_curve("test", "other", classes=many, thresholds=grid)
    write_result(folder, "decision", tables={"operating_curve": table}, classes=many)
    (curve,) = build(tmp_path).curves
    assert len(json.loads(curve.data)["sets"]) == 1


def test_a_damaged_curve_is_a_problem_of_its_result(tmp_path):
    folder, table = write_run(tmp_path, "good"), make_curve("test")
    write_result(folder, "blind_test", "test")
    for damaged in (table.drop(columns="low"), table[table["threshold"] > 0], table.assign(value="<b>")):
        write_result(folder, "decision", "test", tables={"operating_curve": damaged})
        problems = read_study(tmp_path).problems
        assert [(problem.kind, problem.folder.name) for problem in problems] == [("damaged", "decision")]
