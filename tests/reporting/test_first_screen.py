"""What the headline says where models guess: all, some, one alone, and on unbalanced sets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from avatar_bench.i18n import use_language
from avatar_bench.reporting.first_screen import format_headline
from avatar_bench.reporting.leaderboard import Leaderboard, build_leaderboards
from avatar_bench.reporting.page import write_report
from avatar_bench.reporting.study import read_study


@pytest.fixture
def evaluated(tmp_path: Path, make: SimpleNamespace) -> Any:
    """Write runs of these accuracies and balanced accuracies, with or without a ranking whose letters are given."""

    def build(figures: Mapping[str, tuple[float, float]], letters: Mapping[str, str] | None = None) -> Leaderboard:
        for name, (accuracy, balanced) in figures.items():
            metrics = {"accuracy": make.accuracy(accuracy), "balanced_accuracy": make.balanced(balanced)}
            make.result(make.run(tmp_path, name), "blind_test", "test", metrics)
        if letters:
            rows = [
                (name, value, value - 0.05, value + 0.05, 1, len(letters), "a" in letters[name], letters[name])
                for name, (value, _) in sorted(figures.items(), key=lambda item: -item[1][0])
            ]
            folder = make.ranking(tmp_path, "test", rows, compared=list(figures))
            table = pd.read_csv(folder / "ranking.csv")
            low = table["recipe"].map({name: balanced - 0.05 for name, (_, balanced) in figures.items()})
            table["balanced_accuracy"] = low + 0.05
            table["balanced_accuracy_low"], table["balanced_accuracy_high"] = low, low + 0.1
            table.assign(better_than_guessing=low > 1 / 3).to_csv(folder / "ranking.csv", index=False)
        (board,) = build_leaderboards(read_study(tmp_path))
        return board

    return build


@pytest.mark.parametrize("tested", [False, True], ids=["untested", "tested"])
def test_nine_that_guess_are_not_crowned(evaluated: Any, tested: bool) -> None:
    names = [f"net{number}" for number in range(9)]
    figures = {name: (0.32 + 0.005 * number, 0.32 + 0.005 * number) for number, name in enumerate(names)}
    board = evaluated(figures, dict.fromkeys(names, "a") if tested else None)
    assert format_headline(board) == (
        "None of 9 models on test is significantly better than guessing: the highest balanced accuracy is 0.360 "
        "[0.310, 0.410] (net8), guessing has 0.333."
    )
    assert not any(row.is_best for row in board.rows)
    assert all(row.is_guessing for row in board.rows)


@pytest.mark.parametrize("others", [0, 8])
def test_an_interval_a_hair_above_guessing_is_no_success_among_nine(evaluated: Any, others: int) -> None:
    figures = {f"net{number}": (0.33, 0.33) for number in range(others)} | {"lucky": (0.385, 0.385)}  # [0.335, 0.435]
    assert ("lucky" in evaluated(figures).guessing) == (others > 0)


def test_one_alone_that_guesses_is_said_to(evaluated: Any) -> None:
    assert format_headline(evaluated({"net": (0.8, 0.33)})) == (
        "net on test is not significantly better than guessing: its balanced accuracy is 0.330 [0.280, 0.380], "
        "guessing has 0.333."
    )


@pytest.mark.parametrize(
    ("letters", "tie"),
    [
        (
            {"good": "a", "fair": "ab", "guess": "bc", "worse": "c"},
            "it is statistically tied with fair.",
        ),
        ({"good": "a", "fair": "b", "guess": "b", "worse": "b"}, "it is significantly better than fair."),
    ],
)
def test_ties_are_among_those_that_are_better_than_guessing(evaluated: Any, letters: Any, tie: str) -> None:
    figures = {"good": (0.8, 0.8), "fair": (0.75, 0.75), "guess": (0.36, 0.36), "worse": (0.2, 0.2)}
    board = evaluated(figures, letters)
    said = format_headline(board)
    first = (
        "good has the highest accuracy of 4 models on test:"
        if "tied" in tie
        else "good is the best of 4 models on test:"
    )
    assert said.startswith(first)
    assert tie in said
    assert said.endswith(" Not significantly better than guessing: guess and worse.")
    assert [row.name for row in board.rows if row.is_best] == (["good", "fair"] if "tied" in tie else ["good"])


@pytest.mark.parametrize("tested", [False, True], ids=["untested", "tested"])
def test_naming_the_majority_is_not_best_however_high_its_accuracy(evaluated: Any, tested: bool) -> None:
    figures = {"constant": (0.93, 1 / 3), "sees": (0.9, 0.8)}
    board = evaluated(figures, {"constant": "a", "sees": "a"} if tested else None)
    first = "is the best of 2 models on test: accuracy" if tested else "has the highest accuracy of 2 models on test:"
    said = f"sees {first} 0.900 [0.850, 0.950]. Not significantly better than guessing: constant."
    assert format_headline(board) == said
    assert [(row.name, row.is_best) for row in board.rows] == [("constant", False), ("sees", True)]


@pytest.mark.parametrize(
    ("tested", "said"),
    [
        (True, ": 0.900 [0.850, 0.950]; statistically tied with them: c."),
        (False, "[0.850, 0.950]; their intervals overlap with that of c, but no paired test was run."),
    ],
)
def test_of_two_level_first_a_tie_is_significant_only_where_it_was_tested(
    evaluated: Any, tested: bool, said: str
) -> None:
    figures = {"a": (0.9, 0.9), "b": (0.9, 0.9), "c": (0.88, 0.88)}
    assert format_headline(evaluated(figures, dict.fromkeys("abc", "a") if tested else None)).endswith(said)


def test_without_a_level_nobody_is_said_to_guess(tmp_path: Path, make: SimpleNamespace) -> None:
    make.result(make.run(tmp_path, "one"), "blind_test", "test", {"accuracy": make.accuracy(0.3)})
    (board,) = build_leaderboards(read_study(tmp_path))
    assert format_headline(board) == "one on test: accuracy 0.300 [0.250, 0.350]."


@pytest.mark.parametrize(
    ("language", "said"),
    [("en", "not significantly better than guessing"), ("ru", "не значимо лучше угадывания")],
    ids=["en", "ru"],
)
def test_the_board_on_the_page_marks_them(evaluated: Any, tmp_path: Path, language: str, said: str) -> None:
    evaluated({"good": (0.8, 0.8), "guess": (0.33, 0.33)})
    with use_language(language):
        write_report(read_study(tmp_path), tmp_path / "report.html", language)
    lines = (tmp_path / "report.md").read_text(encoding="utf-8").splitlines()
    (good, guess), *_ = zip(
        *([line for line in lines if line.startswith(f"| {name} |")] for name in ("good", "guess")), strict=True
    )
    assert said in guess
    assert said not in good
