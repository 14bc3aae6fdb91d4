"""What is found below a folder of runs, and what is set apart."""

import shutil

import pandas as pd
import pytest

from avatar_bench.errors import DataError
from avatar_bench.reporting.saved_result import MAX_SHOWN_ROWS
from avatar_bench.reporting.study import read_study
from tests.builders.run_files import write_file
from tests.reporting.conftest import (
    accuracy,
    checkpoint,
    describe_ensemble,
    write_ensemble,
    write_ranking,
    write_result,
    write_run,
)

BLIND = "poor/evaluation/blind/blind_test"
TEST = "poor/evaluation/test/blind_test"
ROBUSTNESS = "poor/evaluation/test/robustness"
VOTE = "ensembles/vote"
ANOTHER = {"checkpoint_sha256": checkpoint("another")}
POOR, EARLIER = ("../../poor", "poor"), ("../../good/checkpoints/best.ckpt", "earlier")


def list_problems(study):
    return {(problem.kind, problem.locate(study.root)) for problem in study.problems}


def list_labels(study):
    return [model.label for model in study.models]


def test_runs_are_found_in_the_order_in_which_they_started_with_their_results(runs):
    study = read_study(runs)
    assert list_labels(study) == ["good", "poor"]
    assert study.sets == ["blind", "test"]
    assert set(study.models[0].results) == {("blind", "blind_test"), ("test", "blind_test")}
    assert study.problems == []
    alone = read_study(runs / "good")
    assert (list_labels(alone), alone.comparisons) == (["good"], {})
    write_result(runs / "good", "against", "blind", {"blind_test/accuracy": accuracy(0.1)})
    write_vote(runs, POOR)
    study = read_study(runs)
    assert ("blind", "against") in study.models[0].results
    assert study.problems == []  # a comparison with an earlier result is missed in no other run
    assert [(model.label, model.kind) for model in study.models][-1] == ("vote", "ensemble")
    assert [model.label for model in study.runs] == ["good", "poor"]
    long = pd.DataFrame({"a": range(1000)})  # no more is read than is shown
    write_result(runs, "significance", "test", tables={"pairs": long}, checkpoint_sha256=None)
    write_result(runs / "good", "robustness", "test", tables={"predictions": long})
    study = read_study(runs)
    assert len(study.comparisons["test", "significance"].result.tables["pairs"]) == MAX_SHOWN_ROWS + 1
    assert study.models[0].results["test", "robustness"].result.tables == {}


def put(path, text):
    """Return a function that writes a file below a folder of runs."""
    return lambda runs: write_file(runs / path, text)


def write_vote(runs, *members):
    """Write an ensemble of runs in these places, relative to its folder, by the names of their checkpoints."""
    put(f"{VOTE}/ensemble.json", describe_ensemble(members))(runs)
    write_result(runs / VOTE, "blind_test", "test", {"accuracy": accuracy(0.92)})


@pytest.mark.parametrize(
    ("spoil", "problems", "why"),
    [
        (lambda runs: write_run(runs, "late", status="running"), {("unfinished", "late")}, "running"),
        (put("broken/run.json", "{"), {("damaged", "broken")}, ""),
        *(
            (put(f"{BLIND}/metrics.json", text), {("damaged", BLIND), ("missing", "poor")}, "")
            for text in ("{", "[]", "{}", '{"files": []}', '{"files": 3}')
        ),
        (lambda runs: (runs / BLIND / "metrics.json").unlink(), {("damaged", BLIND), ("missing", "poor")}, ""),
        (lambda runs: write_result(runs / "poor", "robustness", **ANOTHER), {("foreign", ROBUSTNESS)}, ""),
        (lambda runs: shutil.copytree(runs / TEST, runs / ROBUSTNESS), {("foreign", ROBUSTNESS)}, ""),
        (lambda runs: (runs / TEST / "per_source.csv").unlink(), {("missing", TEST)}, "per_source.csv"),
        (lambda runs: write_result(runs / "good", "robustness", "blind"), {("missing", "poor")}, "by: robustness"),
        *((put(f"{VOTE}/ensemble.json", text), {("damaged", VOTE)}, "") for text in ("", "[]", "{}")),
        (lambda runs: write_vote(runs, POOR, EARLIER), {("foreign", VOTE)}, "good had the checkpoint"),
        (lambda runs: write_vote(runs, POOR, ("../gone", "earlier")), {("foreign", VOTE)}, "is missing"),
        (lambda runs: (runs / "good/evaluation/test/.robustness.x.part").mkdir(), set(), ""),  # being written
    ],
)
def test_what_cannot_be_used_is_set_apart_and_named(spoil, problems, why, runs):
    spoil(runs)
    study = read_study(runs)
    assert list_labels(study) == ["good", "poor"]
    assert list_problems(study) == problems
    assert why in " ".join(problem.why for problem in study.problems)
    usable = ["good"] if ("damaged", BLIND) in problems else ["good", "poor"]
    assert list(study.of_block("blind", "blind_test")) == usable
    assert list(study.of_block("test", "blind_test")) == ["good", "poor"]  # a table that is gone costs no number
    assert study.of_block("test", "robustness") == {}


def test_a_comparison_of_checkpoints_that_are_not_here_is_foreign(runs):
    vote = write_ensemble(runs, "vote", 0.9)
    write_result(vote, "blind_test", "blind", checkpoint_sha256=checkpoint("vote"))
    for name, compared in (("test", ["good", "gone"]), ("blind", ["good", "vote"])):
        write_ranking(runs, name, [], compared=compared)
    study = read_study(runs)
    assert list_problems(study) == {("foreign", "evaluation/test/significance")}
    assert set(study.comparisons) == {("blind", "significance")}


def test_a_folder_without_usable_runs_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        read_study(tmp_path / "nowhere")
    with pytest.raises(DataError, match="contains no run") as caught:
        read_study(tmp_path)
    assert len(caught.value.lines) <= 3
    folder = write_run(tmp_path, "fresh")
    with pytest.raises(DataError, match="no run has been evaluated"):
        read_study(tmp_path)
    shutil.rmtree(folder)
    write_run(tmp_path, "old", versions={"avatar_bench": "0.1.0"})
    with pytest.raises(DataError, match=r"made by avatar_bench 0\.1, which this version does not read: train again"):
        read_study(tmp_path)


def test_results_elsewhere_are_of_the_run_that_they_name_and_of_no_run_foreign(runs, tmp_path):
    out, metrics = tmp_path / "out", {"accuracy": accuracy(0.7)}
    for folder, name in ((out, "good"), (out / "a", "poor"), (out / "b", "gone")):
        write_result(folder, "blind_test", "test", metrics, run=str(runs / name), checkpoint_sha256=checkpoint(name))
    write_ranking(out, "test", [], ["good", "poor"])
    study = read_study(out)
    results = {model.label: list(model.results) for model in study.models}
    assert results == {"good": [("test", "blind_test")], "poor": [("test", "blind_test")]}
    assert list(study.comparisons) == [("test", "significance")]
    assert [(problem.kind, problem.folder.name) for problem in study.problems] == [("damaged", "gone")]
    write_result(runs, "robustness", "test", metrics, run=str(runs / "good"), checkpoint_sha256=checkpoint("good"))
    assert ("test", "robustness") in read_study(runs).models[0].results
