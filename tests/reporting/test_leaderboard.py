"""Who stands where, and the sentence that says so."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from avatar_bench.reporting.first_screen import format_headline as answer
from avatar_bench.reporting.leaderboard import Leaderboard, build_leaderboards
from avatar_bench.reporting.page import write_report
from avatar_bench.reporting.study import read_study


def board_of(runs: Path, name: str = "test") -> Leaderboard:
    (found,) = [board for board in build_leaderboards(read_study(runs)) if board.name == name]
    return found


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
