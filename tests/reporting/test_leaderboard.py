"""Who stands where, and the sentence that says so."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from avatar_bench.reporting.first_screen import format_headline as answer
from avatar_bench.reporting.leaderboard import Leaderboard, build_leaderboards
from avatar_bench.reporting.page import write_report
from avatar_bench.reporting.study import read_study


def board_of(runs: Path, name: str = "test") -> Leaderboard:
    (collected,) = [board for board in build_leaderboards(read_study(runs)) if board.name == name]
    return collected


def test_the_blind_set_stands_first(runs: Path) -> None:
    assert [board.name for board in build_leaderboards(read_study(runs))] == ["blind", "test"]


def test_without_tests_ranks_are_what_intervals_leave_open(runs: Path, make: SimpleNamespace) -> None:
    folder = make.run(runs, "near")
    make.result(folder, "blind_test", "test", {"accuracy": make.accuracy(0.82)})
    rows = board_of(runs).rows
    assert [(row.name, row.first, row.last, row.is_best) for row in rows] == [
        ("good", 1, 2, True),
        ("near", 1, 2, True),
        ("poor", 3, 3, False),
    ]
    assert answer(board_of(runs)) == (
        "good has the highest accuracy of 3 models on test: 0.900 [0.850, 0.950]; its interval overlaps with that of "
        "near, but no paired test was run."
    )


def test_intervals_apart_are_said_to_be_no_test(runs: Path) -> None:
    assert "no paired test" in answer(board_of(runs))
    assert "its interval is above that of all others" in answer(board_of(runs))


def test_a_tested_tie_is_shared_first_place(runs: Path, make: SimpleNamespace) -> None:
    rows = [("good", 0.9, 0.85, 0.95, 1, 2, True, "a"), ("poor", 0.6, 0.5, 0.7, 1, 2, True, "a")]
    make.ranking(runs, "test", rows, compared=["good", "poor"])
    board = board_of(runs)
    assert board.is_tested
    assert [(row.first, row.last, row.letters, row.is_best) for row in board.rows] == [(1, 2, "a", True)] * 2
    assert answer(board) == (
        "good has the highest accuracy of 2 models on test: 0.900 [0.850, 0.950]; it is statistically tied with poor."
    )
    assert board.detectable is not None
    assert board.detectable.value == 0.07  # of the test, not of a single run


def test_a_tested_winner_is_one(runs: Path, make: SimpleNamespace) -> None:
    rows = [("good", 0.9, 0.85, 0.95, 1, 1, True, "a"), ("poor", 0.6, 0.5, 0.7, 2, 2, False, "b")]
    make.ranking(runs, "test", rows, compared=["good", "poor"])
    assert answer(board_of(runs)).endswith("it is significantly better than all others.")
    assert not board_of(runs, "blind").is_tested


def test_runs_of_the_very_same_accuracy_are_named_together(runs: Path, make: SimpleNamespace) -> None:
    rows = [("good", 0.9, 0.85, 0.95, 1, 2, True, "a"), ("poor", 0.9, 0.85, 0.95, 1, 2, True, "a")]
    make.ranking(runs, "test", rows, compared=["good", "poor"])
    assert (
        answer(board_of(runs)) == "good and poor share the highest accuracy of 2 models on test: 0.900 [0.850, 0.950]."
    )


def test_what_was_compared_but_has_no_usable_accuracy_is_named(runs: Path, make: SimpleNamespace) -> None:
    rows = [
        ("spoilt", 0.95, 0.9, 0.99, 1, 1, True, "a"),
        ("good", 0.9, 0.85, 0.95, 2, 3, False, "b"),
        ("poor", 0.6, 0.5, 0.7, 2, 3, False, "b"),
    ]
    make.ranking(runs, "test", rows, compared=["good", "poor"])
    assert answer(board_of(runs)).endswith("Left out, without a usable accuracy: spoilt.")


def test_a_ranking_that_lacks_a_run_is_not_used(runs: Path, make: SimpleNamespace) -> None:
    make.ranking(runs, "test", [("good", 0.9, 0.85, 0.95, 1, 1, True, "a")], compared=["good"])
    assert not board_of(runs).is_tested


def test_ensembles_stand_on_the_board_without_a_rank(runs: Path, make: SimpleNamespace) -> None:
    make.ensemble(runs, "soft_vote", 0.95)
    make.ensemble(runs, "soup", 0.97, kind="soup")
    rows = board_of(runs).rows
    assert [(row.name, row.first, row.is_best) for row in rows] == [
        ("good", 1, True),
        ("poor", 2, False),
        ("soup", None, False),
        ("soft_vote", None, False),
    ]
    assert {row.reason for row in rows[2:]} == {"combines the runs, not ranked"}
    assert board_of(runs).names == ["good", "poor"]
    assert answer(board_of(runs)).startswith("good has the highest accuracy of 2 models on test")


def test_an_ensemble_that_paired_tests_include_is_ranked(runs: Path, make: SimpleNamespace) -> None:
    make.ensemble(runs, "soft_vote", 0.95)
    rows = [
        ("soft_vote", 0.95, 0.9, 1.0, 1, 1, True, "a"),
        ("good", 0.9, 0.85, 0.95, 2, 2, False, "b"),
        ("poor", 0.6, 0.5, 0.7, 3, 3, False, "c"),
    ]
    make.ranking(runs, "test", rows, compared=["good", "poor"])
    assert [(row.name, row.first, row.is_best) for row in board_of(runs).rows] == [
        ("soft_vote", 1, True),
        ("good", 2, False),
        ("poor", 3, False),
    ]


def test_ensembles_alone_on_a_set_are_ranked_among_themselves(runs: Path, make: SimpleNamespace) -> None:
    make.ensemble(runs, "soft_vote", 0.9, name="web")
    make.ensemble(runs, "greedy", 0.6, name="web")
    assert [(row.name, row.first) for row in board_of(runs, "web").rows] == [("soft_vote", 1), ("greedy", 2)]


def test_several_seeds_are_one_entry_with_the_figure_over_seeds(tmp_path: Path, make: SimpleNamespace) -> None:
    for name, seed, value in (("a", 1, 0.7), ("b", 2, 0.8)):
        folder = make.run(tmp_path, name, seed, experiment="same")
        (folder / "config.yaml").write_text(f"model: {{backbone: r}}\nseed: {seed}\n")
        make.result(folder, "blind_test", "test", {"accuracy": make.accuracy(value)})
    other = make.run(tmp_path, "c", experiment="other")
    make.result(other, "blind_test", "test", {"accuracy": make.accuracy(0.5)})
    rows = [("same", 0.75, 0.66, 0.84, 1, 1, True, "a"), ("other", 0.5, 0.4, 0.6, 2, 2, False, "b")]
    make.ranking(tmp_path, "test", rows)
    board = board_of(tmp_path)
    assert board.names == ["same", "other"]
    assert [(row.name, row.first, row.seeds, row.reason) for row in board.rows] == [
        ("same", 1, ("same · seed 2", "same · seed 1"), None),
        ("same", None, (), "seed 2"),
        ("same", None, (), "seed 1"),
        ("other", 2, (), None),
    ]
    mean = board.rows[0].metrics["accuracy"]
    assert mean is not None
    assert (mean.value, mean.low, mean.high) == (0.75, 0.66, 0.84)  # of the ranking, as in the headline
    assert answer(board).startswith("same is the best of 2 models on test: accuracy 0.750 [0.660, 0.840];")
    write_report(read_study(tmp_path), tmp_path / "report.html", "en")
    lines = (tmp_path / "report.md").read_text(encoding="utf-8").splitlines()
    names = [line.split(" | ")[0] for line in lines if "seed" in line and line.startswith("| ")][:3]
    assert names == ["| same (mean over 2 seeds, below)", "| same · seed 2", "| same · seed 1"]


def test_different_images_under_one_name_stand_on_boards_of_their_own(runs: Path, make: SimpleNamespace) -> None:
    make.result(runs / "poor", "blind_test", "test", {"accuracy": make.accuracy(0.6)}, data_fingerprint="other")
    found = [board for board in build_leaderboards(read_study(runs)) if board.name == "test"]
    assert [(board.fingerprint, board.names) for board in found] == [("test0", ["good"]), ("other", ["poor"])]
    assert answer(found[1]) == "poor on test: accuracy 0.600 [0.550, 0.650]."


def test_a_run_without_an_accuracy_has_no_rank(runs: Path, make: SimpleNamespace) -> None:
    from avatar_bench.results.reasons import Reason
    from avatar_bench.results.result import Metric

    make.result(runs / "poor", "blind_test", "test", {"accuracy": Metric(None, 0, reason=Reason("no_images_of_class"))})
    row = board_of(runs).rows[-1]
    assert (row.name, row.first, row.is_best) == ("poor", None, False)


def test_without_blind_test_there_is_no_board(runs: Path, make: SimpleNamespace) -> None:
    for folder in ("good", "poor"):
        shutil.rmtree(runs / folder / "evaluation")
        make.result(runs / folder, "robustness", "test", {"robustness": make.accuracy(0.5)})
    assert build_leaderboards(read_study(runs)) == []


@pytest.mark.parametrize("missing", ["letters", "rank_low"])
def test_a_ranking_of_another_make_is_not_used(missing: str, runs: Path, make: SimpleNamespace) -> None:
    folder = make.ranking(runs, "test", [(n, 0.9, 0.8, 1.0, 1, 2, True, "a") for n in ("good", "poor")])
    import pandas as pd

    pd.read_csv(folder / "ranking.csv").drop(columns=missing).to_csv(folder / "ranking.csv", index=False)
    assert not board_of(runs).is_tested
