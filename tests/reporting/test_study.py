"""What is found below a folder of runs, and what is set apart."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from avatar_bench.errors import DataError
from avatar_bench.reporting.saved_result import MAX_SHOWN_ROWS
from avatar_bench.reporting.study import Study, read_study


def told(study: Study) -> set[tuple[str, str]]:
    return {(problem.kind, problem.locate(study.root)) for problem in study.problems}


def test_runs_are_found_in_the_order_in_which_they_started_with_their_results(runs: Path) -> None:
    study = read_study(runs)
    assert [model.label for model in study.models] == ["good", "poor"]
    assert study.sets == ["blind", "test"]
    assert set(study.models[0].results) == {("blind", "blind_test"), ("test", "blind_test")}
    assert study.problems == []


def test_one_run_alone_is_a_study_whose_own_results_compare_nothing(runs: Path) -> None:
    study = read_study(runs / "good")
    assert [model.label for model in study.models] == ["good"]
    assert study.comparisons == {}


def test_unfinished_and_damaged_runs_are_named_and_left_out(runs: Path, make: SimpleNamespace) -> None:
    make.run(runs, "late", status="running")
    (runs / "broken").mkdir()
    (runs / "broken" / "run.json").write_text("{")
    study = read_study(runs)
    assert [model.label for model in study.models] == ["good", "poor"]
    assert told(study) == {("unfinished", "late"), ("damaged", "broken")}


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"files": []}', '{"files": 3}'])
def test_a_damaged_result_is_named_and_never_read(text: str, runs: Path) -> None:
    (runs / "poor" / "evaluation" / "blind" / "blind_test" / "metrics.json").write_text(text)
    study = read_study(runs)
    assert ("damaged", "poor/evaluation/blind/blind_test") in told(study)
    assert ("missing", "poor") in told(study)
    assert list(study.of_block("blind", "blind_test")) == ["good"]


def test_a_folder_without_metrics_is_damaged(runs: Path) -> None:
    (runs / "poor" / "evaluation" / "blind" / "blind_test" / "metrics.json").unlink()
    assert ("damaged", "poor/evaluation/blind/blind_test") in told(read_study(runs))


def test_a_result_of_another_checkpoint_is_foreign(runs: Path, make: SimpleNamespace) -> None:
    make.result(runs / "poor", "robustness", checkpoint_sha256=make.checkpoint("another"))
    study = read_study(runs)
    assert told(study) == {("foreign", "poor/evaluation/test/robustness")}
    assert study.of_block("test", "robustness") == {}


def test_a_result_in_the_folder_of_another_block_is_foreign(runs: Path) -> None:
    place = runs / "poor" / "evaluation" / "test"
    shutil.copytree(place / "blind_test", place / "robustness")
    assert told(read_study(runs)) == {("foreign", "poor/evaluation/test/robustness")}


def test_a_comparison_of_checkpoints_that_are_not_here_is_foreign(runs: Path, make: SimpleNamespace) -> None:
    make.ranking(runs, "test", [], compared=["good", "gone"])
    make.ranking(runs, "blind", [], compared=["good", "poor"])
    study = read_study(runs)
    assert told(study) == {("foreign", "evaluation/test/significance")}
    assert set(study.comparisons) == {("blind", "significance")}


def test_a_table_that_is_gone_is_missing_and_the_numbers_stay(runs: Path) -> None:
    (runs / "poor" / "evaluation" / "test" / "blind_test" / "per_source.csv").unlink()
    study = read_study(runs)
    (problem,) = study.problems
    assert (problem.kind, problem.model) == ("missing", "poor")
    assert "per_source.csv" in problem.why
    assert "poor" in study.of_block("test", "blind_test")


def test_blocks_of_other_runs_that_a_run_lacks_are_missing(runs: Path, make: SimpleNamespace) -> None:
    make.result(runs / "good", "robustness", "blind")
    (problem,) = read_study(runs).problems
    assert (problem.kind, problem.folder) == ("missing", runs / "poor")
    assert "blind" in problem.why
    assert "robustness" in problem.why


def test_ensembles_are_models_of_their_own(runs: Path, make: SimpleNamespace) -> None:
    folder = runs / "ensembles" / "soft_vote"
    folder.mkdir(parents=True)
    (folder / "ensemble.json").write_text(json.dumps({"kind": "ensemble", "members": []}))
    make.result(folder, "blind_test", "test", {"accuracy": make.accuracy(0.92)})
    study = read_study(runs)
    assert [(model.label, model.kind) for model in study.models][-1] == ("soft_vote", "ensemble")
    assert [model.label for model in study.runs] == ["good", "poor"]
    assert study.problems == []


@pytest.mark.parametrize(
    ("run", "why"), [("../../good/checkpoints/best.ckpt", "good had the checkpoint"), ("../gone", "is missing")]
)
def test_an_ensemble_of_other_checkpoints_is_foreign(run: str, why: str, runs: Path, make: SimpleNamespace) -> None:
    folder = runs / "ensembles" / "soft_vote"
    folder.mkdir(parents=True)
    members = [{"run": "../../poor", "checkpoint_sha256": make.checkpoint("poor"), "weight": 0.5}]
    members.append({"run": run, "checkpoint_sha256": make.checkpoint("earlier"), "weight": 0.5})
    (folder / "ensemble.json").write_text(json.dumps({"kind": "ensemble", "members": members}))
    make.result(folder, "blind_test", "test", {"accuracy": make.accuracy(0.92)})
    study = read_study(runs)
    assert [model.label for model in study.models] == ["good", "poor"]
    assert told(study) == {("foreign", "ensembles/soft_vote")}
    assert why in study.problems[0].why


def test_no_more_of_a_table_is_read_than_is_shown(runs: Path, make: SimpleNamespace) -> None:
    long = pd.DataFrame({"a": range(1000)})
    make.result(runs, "significance", "test", tables={"pairs": long}, checkpoint_sha256=None)
    make.result(runs / "good", "robustness", "test", tables={"predictions": long})
    study = read_study(runs)
    assert len(study.comparisons["test", "significance"].result.tables["pairs"]) == MAX_SHOWN_ROWS + 1
    assert study.models[0].results["test", "robustness"].result.tables == {}


@pytest.mark.parametrize("record", ["", "[]", "{}"])
def test_a_damaged_ensemble_is_named(record: str, runs: Path) -> None:
    folder = runs / "ensembles" / "greedy"
    folder.mkdir(parents=True)
    (folder / "ensemble.json").write_text(record)
    assert told(read_study(runs)) == {("damaged", "ensembles/greedy")}


def test_a_result_that_is_being_written_is_no_result(runs: Path) -> None:
    (runs / "good" / "evaluation" / "test" / ".robustness.x.part").mkdir()
    assert read_study(runs).problems == []


def test_a_folder_without_runs_is_refused_with_what_to_do(tmp_path: Path, make: SimpleNamespace) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read_study(tmp_path / "nowhere")
    with pytest.raises(DataError, match="contains no run") as caught:
        read_study(tmp_path)
    assert len(caught.value.lines) <= 3
    make.run(tmp_path, "fresh")
    with pytest.raises(DataError, match="no run has been evaluated"):
        read_study(tmp_path)


def test_results_that_lie_elsewhere_are_of_the_run_that_they_name(
    runs: Path, make: SimpleNamespace, tmp_path: Path
) -> None:
    out, metrics = tmp_path / "out", {"accuracy": make.accuracy(0.7)}
    for place, name in ((out, "good"), (out / "a", "poor"), (out / "b", "gone")):
        named = {"run": str(runs / name), "checkpoint_sha256": make.checkpoint(name)}
        make.result(place, "blind_test", "test", metrics, **named)
    make.ranking(out, "test", [], ["good", "poor"])
    study = read_study(out)
    assert {model.label: list(model.results) for model in study.models} == {
        name: [("test", "blind_test")] for name in ("good", "poor")
    }
    assert list(study.comparisons) == [("test", "significance")]
    assert [(problem.kind, problem.folder.name) for problem in study.problems] == [("damaged", "gone")]
    make.result(runs, "robustness", "test", metrics, run=str(runs / "good"), checkpoint_sha256=make.checkpoint("good"))
    assert ("test", "robustness") in read_study(runs).models[0].results


def test_a_comparison_with_an_earlier_result_is_shown_and_missed_in_no_other_run(
    runs: Path, make: SimpleNamespace
) -> None:
    make.result(runs / "good", "against", "blind", {"blind_test/accuracy": make.accuracy(0.1)})
    study = read_study(runs)
    assert ("blind", "against") in study.models[0].results
    assert study.problems == []


def test_a_comparison_of_ensembles_is_kept_where_their_results_are_of_the_same_checkpoints(
    runs: Path, make: SimpleNamespace
) -> None:
    folder = make.ensemble(runs, "soft_vote", 0.9)
    for name, compared in (("blind", ["good", "soft_vote"]), ("val", ["good", "another"])):
        make.ranking(runs, name, [], compared=compared)
    make.result(folder, "blind_test", "blind", checkpoint_sha256=make.checkpoint("soft_vote"))
    study = read_study(runs)
    assert ("blind", "significance") in study.comparisons
    assert ("foreign", "evaluation/val/significance") in told(study)


def test_runs_of_another_version_are_refused_with_what_to_do(tmp_path: Path, make: SimpleNamespace) -> None:
    make.run(tmp_path, "old", versions={"avatar_bench": "0.1.0"})
    with pytest.raises(DataError, match=r"made by avatar_bench 0\.1, which this version does not read: train again"):
        read_study(tmp_path)
