"""Ranks of models, and the headline that states them."""

import shutil

import pandas as pd
import pytest

from avatar_bench.i18n import use_language
from avatar_bench.reporting.first_screen import format_headline
from avatar_bench.reporting.leaderboard import build_leaderboards
from avatar_bench.reporting.page import write_report
from avatar_bench.reporting.study import read_study
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric
from tests.reporting.conftest import accuracy, balanced, write_ensemble, write_ranking, write_result, write_run


def read_board(runs, name="test"):
    (board,) = [board for board in build_leaderboards(read_study(runs)) if board.name == name]
    return board


def rank(name, value, first, last, letters):
    return name, value, value - 0.05, value + 0.05, first, last, "a" in letters, letters


GOOD, POOR = rank("good", 0.9, 1, 1, "a"), rank("poor", 0.6, 2, 2, "b")
TIED = [rank("good", 0.9, 1, 2, "a"), rank("poor", 0.6, 1, 2, "a")]
LEVEL = [rank("good", 0.9, 1, 2, "a"), rank("poor", 0.9, 1, 2, "a")]
SPOILT = [rank("spoilt", 0.95, 1, 1, "a"), rank("good", 0.9, 2, 3, "b"), rank("poor", 0.6, 2, 3, "b")]


HIGHEST = "good has the highest accuracy of {} models on test: {}; it is statistically tied with {}."
BEST = "good is the best of {} models on test: accuracy {}; it is significantly better than {}."
SHARED = "{} share the highest accuracy of {} models on test: 0.900 [0.850, 0.950]"
NINETY, EIGHTY = "0.900 [0.850, 0.950]", "0.800 [0.750, 0.850]"


@pytest.mark.parametrize(
    ("ranking", "headline", "rows"),
    [
        (TIED, HIGHEST.format(2, NINETY, "poor"), [(1, 2, "a", True)] * 2),
        ([GOOD, POOR], BEST.format(2, NINETY, "all others"), [(1, 1, "a", True), (2, 2, "b", False)]),
        (LEVEL, SHARED.format("good and poor", 2) + ".", [(1, 2, "a", True)] * 2),
        (
            SPOILT,
            HIGHEST.format(2, NINETY, "poor") + " Left out, without a usable accuracy: spoilt.",
            [(2, 3, "b", True)] * 2,
        ),
    ],
)
def test_a_headline_is_that_of_the_paired_tests(ranking, headline, rows, runs):
    write_ranking(runs, "test", ranking, compared=["good", "poor"])
    board = read_board(runs)
    assert format_headline(board) == headline
    assert [(row.first, row.last, row.letters, row.is_best) for row in board.rows] == rows
    assert board.is_tested
    assert not read_board(runs, "blind").is_tested
    assert board.detectable.value == 0.07  # of the test, not of a single run
    assert [board.name for board in build_leaderboards(read_study(runs))] == ["blind", "test"]


def test_without_tests_ranks_are_what_intervals_leave_open(runs):
    headline = format_headline(read_board(runs))
    assert "no paired test" in headline
    assert "its interval is above that of all others" in headline
    write_result(write_run(runs, "near"), "blind_test", "test", {"accuracy": accuracy(0.82)})
    board = read_board(runs)
    rows = [(row.name, row.first, row.last, row.is_best) for row in board.rows]
    assert rows == [("good", 1, 2, True), ("near", 1, 2, True), ("poor", 3, 3, False)]
    tied = "; its interval overlaps with that of near, but no paired test was run."
    assert format_headline(board) == f"good has the highest accuracy of 3 models on test: {NINETY}{tied}"


@pytest.mark.parametrize("missing", ["a run", "letters", "rank_low"])
def test_a_ranking_that_lacks_a_run_or_a_column_is_not_used(missing, runs):
    folder = write_ranking(runs, "test", [GOOD] if missing == "a run" else TIED, compared=["good"])
    table = pd.read_csv(folder / "ranking.csv").drop(columns=missing, errors="ignore")
    table.to_csv(folder / "ranking.csv", index=False)
    assert not read_board(runs).is_tested


def test_ensembles_are_ranked_where_paired_tests_include_them_or_they_stand_alone(runs):
    write_ensemble(runs, "soft_vote", 0.95)
    write_ensemble(runs, "soup", 0.97, kind="soup")
    board = read_board(runs)
    assert [(row.name, row.first, row.is_best, row.reason) for row in board.rows] == [
        *(("good", 1, True, None), ("poor", 2, False, None)),
        *((name, None, False, "combines the runs, not ranked") for name in ("soup", "soft_vote")),
    ]
    assert board.names == ["good", "poor"]
    assert format_headline(board).startswith("good has the highest accuracy of 2 models on test")
    shutil.rmtree(runs / "ensembles" / "soup")
    ranking = [rank("soft_vote", 0.95, 1, 1, "a"), rank("good", 0.9, 2, 2, "b"), rank("poor", 0.6, 3, 3, "c")]
    write_ranking(runs, "test", ranking, compared=["good", "poor"])
    rows = [(row.name, row.first, row.is_best) for row in read_board(runs).rows]
    assert rows == [("soft_vote", 1, True), ("good", 2, False), ("poor", 3, False)]
    for name, value in (("first", 0.9), ("second", 0.6)):
        write_ensemble(runs, name, value, name="web")
    assert [(row.name, row.first) for row in read_board(runs, "web").rows] == [("first", 1), ("second", 2)]


def test_several_seeds_are_one_entry_with_the_metric_over_seeds(tmp_path):
    for name, seed, value in (("a", 1, 0.7), ("b", 2, 0.8)):
        folder = write_run(tmp_path, name, seed, experiment="same")
        (folder / "config.yaml").write_text(f"model: {{backbone: r}}\nseed: {seed}\n")
        write_result(folder, "blind_test", "test", {"accuracy": accuracy(value)})
    write_result(write_run(tmp_path, "c", experiment="other"), "blind_test", "test", {"accuracy": accuracy(0.5)})
    rows = [("same", 0.75, 0.66, 0.84, 1, 1, True, "a"), ("other", 0.5, 0.4, 0.6, 2, 2, False, "b")]
    write_ranking(tmp_path, "test", rows)
    board = read_board(tmp_path)
    assert board.names == ["same", "other"]
    assert [(row.name, row.first, row.seeds, row.reason) for row in board.rows] == [
        ("same", 1, ("same · seed 2", "same · seed 1"), None),
        ("same", None, (), "seed 2"),
        ("same", None, (), "seed 1"),
        ("other", 2, (), None),
    ]
    mean = board.rows[0].metrics["accuracy"]
    assert (mean.value, mean.low, mean.high) == (0.75, 0.66, 0.84)  # of the ranking, as in the headline
    assert format_headline(board).startswith("same is the best of 2 models on test: accuracy 0.750 [0.660, 0.840];")
    write_report(read_study(tmp_path), tmp_path / "report.html", "en")
    lines = (tmp_path / "report.md").read_text(encoding="utf-8").splitlines()
    names = [line.split(" | ")[0] for line in lines if "seed" in line and line.startswith("| ")][:3]
    assert names == ["| same (mean over 2 seeds, below)", "| same · seed 2", "| same · seed 1"]


def test_different_images_stand_on_boards_of_their_own_and_without_an_accuracy_there_is_no_rank_or_board(runs):
    write_result(runs / "poor", "blind_test", "test", {"accuracy": accuracy(0.6)}, data_fingerprint="other")
    boards = [board for board in build_leaderboards(read_study(runs)) if board.name == "test"]
    assert [(board.fingerprint, board.names) for board in boards] == [("test0", ["good"]), ("other", ["poor"])]
    assert format_headline(boards[1]) == "poor on test: accuracy 0.600 [0.550, 0.650]."  # without a level of guessing
    missing = Metric(None, 0, reason=Reason("no_images_of_class"))
    write_result(runs / "poor", "blind_test", "test", {"accuracy": missing})
    row = read_board(runs).rows[-1]
    assert (row.name, row.first, row.is_best) == ("poor", None, False)
    for folder in ("good", "poor"):
        shutil.rmtree(runs / folder / "evaluation")
        write_result(runs / folder, "robustness", "test", {"robustness": accuracy(0.5)})
    assert build_leaderboards(read_study(runs)) == []


@pytest.fixture
def evaluated(tmp_path):
    """Write runs of these accuracies and balanced accuracies, with or without a ranking whose letters are given."""

    def build(values, letters=None):
        for name, (value, mean) in values.items():
            metrics = {"accuracy": accuracy(value), "balanced_accuracy": balanced(mean)}
            write_result(write_run(tmp_path, name), "blind_test", "test", metrics)
        if letters:
            order = sorted(values, key=lambda name: -values[name][0])
            rows = [rank(name, values[name][0], 1, len(letters), letters[name]) for name in order]
            folder = write_ranking(tmp_path, "test", rows, compared=list(values))
            table = pd.read_csv(folder / "ranking.csv")
            mean = table["recipe"].map({name: mean for name, (_, mean) in values.items()})
            ends = {"balanced_accuracy_low": mean - 0.05, "balanced_accuracy_high": mean + 0.05}
            table = table.assign(balanced_accuracy=mean, better_than_guessing=mean - 0.05 > 1 / 3, **ends)
            table.to_csv(folder / "ranking.csv", index=False)
        (board,) = build_leaderboards(read_study(tmp_path))
        return board

    return build


NINE = {f"net{number}": (0.32 + 0.005 * number, 0.32 + 0.005 * number) for number in range(9)}
CONSTANT = {"constant": (0.93, 1 / 3), "sees": (0.9, 0.8)}
FOUR = {"good": (0.8, 0.8), "fair": (0.75, 0.75), "guess": (0.36, 0.36), "worse": (0.2, 0.2)}
TWO_FIRST = {"a": (0.9, 0.9), "b": (0.9, 0.9), "c": (0.88, 0.88)}


GUESSES = "Not significantly better than guessing: {}."
NONE_SEES = (
    "None of 9 models on test is significantly better than guessing: the highest balanced accuracy is 0.360 "
    "[0.310, 0.410] (net8), guessing has 0.333."
)
ALONE = (
    "net on test is not significantly better than guessing: its balanced accuracy is 0.330 [0.280, 0.380], "
    "guessing has 0.333."
)


@pytest.mark.parametrize(
    ("values", "letters", "headline", "best"),
    [
        (NINE, None, NONE_SEES, []),
        (NINE, dict.fromkeys(NINE, "a"), NONE_SEES, []),
        ({"net": (0.8, 0.33)}, None, ALONE, []),
        (
            FOUR,
            {"good": "a", "fair": "ab", "guess": "bc", "worse": "c"},
            f"{HIGHEST.format(4, EIGHTY, 'fair')} {GUESSES.format('guess and worse')}",
            ["good", "fair"],
        ),
        (
            FOUR,
            {"good": "a", "fair": "b", "guess": "b", "worse": "b"},
            f"{BEST.format(4, EIGHTY, 'fair')} {GUESSES.format('guess and worse')}",
            ["good"],
        ),
        (
            CONSTANT,
            None,
            f"sees has the highest accuracy of 2 models on test: {NINETY}. {GUESSES.format('constant')}",
            ["sees"],
        ),
        (
            CONSTANT,
            dict.fromkeys(CONSTANT, "a"),
            f"sees is the best of 2 models on test: accuracy {NINETY}. {GUESSES.format('constant')}",
            ["sees"],
        ),
        (
            TWO_FIRST,
            None,
            SHARED.format("a and b", 3) + "; their intervals overlap with that of c, but no paired test was run.",
            ["a", "b", "c"],
        ),
        (
            TWO_FIRST,
            dict.fromkeys("abc", "a"),
            SHARED.format("a and b", 3) + "; statistically tied with them: c.",
            ["a", "b", "c"],
        ),
    ],
)
def test_a_model_that_guesses_is_never_best(values, letters, headline, best, evaluated):
    board = evaluated(values, letters)
    assert format_headline(board) == headline
    assert [row.name for row in board.rows if row.is_best] == best
    assert [row.is_guessing for row in board.rows] == [values[row.name][1] - 0.05 <= 1 / 3 for row in board.rows]


@pytest.mark.parametrize("others", [0, 8])
def test_an_interval_a_hair_above_guessing_is_no_success_among_nine(evaluated, others):
    values = {f"net{number}": (0.33, 0.33) for number in range(others)} | {"lucky": (0.385, 0.385)}  # [0.335, 0.435]
    assert ("lucky" in evaluated(values).guessing) == (others > 0)


@pytest.mark.parametrize(
    ("language", "text"), [("en", "not significantly better than guessing"), ("ru", "не значимо лучше угадывания")]
)
def test_the_board_on_the_page_marks_those_that_guess(evaluated, tmp_path, language, text):
    evaluated({"good": (0.8, 0.8), "guess": (0.33, 0.33)})
    with use_language(language):
        write_report(read_study(tmp_path), tmp_path / "report.html", language)
    lines = (tmp_path / "report.md").read_text(encoding="utf-8").splitlines()
    good, guess = (next(line for line in lines if line.startswith(f"| {name} |")) for name in ("good", "guess"))
    assert text in guess
    assert text not in good


def test_a_table_has_the_ranks_and_the_ends_of_the_intervals(runs):
    write_ranking(runs, "test", [GOOD, POOR], compared=["good", "poor"])
    table = read_board(runs).table(["accuracy"]).set_index("model")
    assert list(table.columns) == ["rank_low", "rank_high", "letters", "accuracy", "accuracy_low", "accuracy_high"]
    assert table.loc["good", ["rank_low", "rank_high", "letters"]].tolist() == [1, 1, "a"]
    assert table.loc["poor", ["accuracy", "accuracy_low", "accuracy_high"]].notna().all()
    assert read_board(runs).table(["accuracy"], "new sources")["accuracy"].isna().all()
