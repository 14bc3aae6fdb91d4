"""Folds: equal sizes by class and source, groups that stay whole, and units drawn whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from avatar_bench.data.splits import assign_folds, draw_held_out_units

AVATARS = Path(__file__).parents[3] / "shared" / "data" / "avatars.csv"


def rows(*sources: tuple[str, str, int, int]) -> pd.DataFrame:
    """Return rows of (label, source, number of groups, size of a group)."""
    named = [
        (label, source, f"{source}:{group}")
        for label, source, groups, size in sources
        for group in range(groups)
        for _ in range(size)
    ]
    return pd.DataFrame(named, columns=["label", "source", "group"])


def spread(values: pd.Series, folds: np.ndarray, n: int = 10) -> np.ndarray:
    """Return, for each value, its counts by fold, (values, n)."""
    return np.array([np.bincount(folds[values == value], minlength=n) for value in sorted(values.unique())])


@pytest.mark.parametrize("seed", range(5))
def test_fold_sizes_differ_by_the_size_of_a_group_at_most(seed: int) -> None:
    frame = rows(("a", "p", 60, 3), ("a", "q", 41, 1), ("a", "r", 7, 2), ("b", "s", 30, 5), ("b", "t", 99, 1))
    folds = assign_folds(frame, 10, seed)
    assert frame.assign(fold=folds).groupby("group")["fold"].nunique().max() == 1
    for column in ("label", "source"):
        counts = spread(frame[column], folds)
        assert (counts.max(axis=1) - counts.min(axis=1) <= 5).all()


@pytest.mark.parametrize("seed", range(5))
def test_small_groups_make_up_for_large_ones_of_another_source(seed: int) -> None:
    frame = rows(("a", "crowd", 3, 12), ("a", "alone", 100, 1))
    counts = spread(frame["label"], assign_folds(frame, 10, seed))[0]
    assert np.abs(counts / len(frame) - 0.1).max() < 0.02


def test_one_group_alone_has_one_fold() -> None:
    assert len(set(assign_folds(rows(("a", "p", 1, 9)), 10, 0))) == 1


def test_a_group_stays_in_the_folds_it_may_be_in_and_the_others_fill_what_is_behind() -> None:
    frame = rows(("a", "p", 100, 1))
    kept = {f"p:{group}": (group % 5,) for group in range(50)}
    folds = assign_folds(frame, 10, 0, kept)
    assert folds[:50].tolist() == [group % 5 for group in range(50)]
    assert np.bincount(folds).tolist() == [10] * 10
    barred = assign_folds(frame, 10, 0, dict.fromkeys(frame["group"], range(1, 10)))
    assert np.bincount(barred, minlength=10).tolist()[0] == 0
    assert set(np.bincount(barred, minlength=10)[1:]) == {11, 12}


def test_units_are_drawn_until_each_class_has_about_its_share_and_some_are_left() -> None:
    frame = rows(*((label, f"{label}{k}", 10 + k, 1) for label in "abc" for k in range(12)))
    for seed in range(10):
        held = draw_held_out_units(frame["source"], frame["label"], 0.1, seed)
        share = frame["source"].isin(held).groupby(frame["label"]).mean()
        assert share.between(0.05, 0.15).all()
    assert len({draw_held_out_units(frame["source"], frame["label"], 0.1, seed) for seed in range(10)}) > 5
    assert draw_held_out_units(frame["source"], frame["label"], 0.1, 3) == draw_held_out_units(
        frame["source"], frame["label"], 0.1, 3
    )


def test_a_class_of_large_units_gives_its_smallest_one() -> None:
    frame = rows(("a", "large", 60, 1), ("a", "larger", 70, 1), ("b", "small", 50, 1), ("b", "big", 80, 1))
    assert draw_held_out_units(frame["source"], frame["label"], 0.1, 0) == ("large", "small")


def test_a_class_of_one_unit_and_unknown_units_are_never_drawn() -> None:
    frame = rows(("a", "only", 30, 1), ("b", "", 25, 1), ("b", "one", 5, 1))
    assert draw_held_out_units(frame["source"], frame["label"], 0.1, 0) == ("one",)


def test_a_unit_of_two_classes_is_not_drawn_where_one_of_them_has_nothing_else() -> None:
    frame = rows(("a", "both", 10, 1), ("b", "both", 10, 1), ("a", "other", 80, 1))
    assert "both" not in draw_held_out_units(frame["source"], frame["label"], 0.1, 0)


@pytest.mark.shared
@pytest.mark.skipif(not AVATARS.is_file(), reason="../shared/data is not here")
@pytest.mark.parametrize("seed", range(3))
def test_every_fold_of_the_avatars_has_a_tenth_of_each_class(seed: int) -> None:
    frame = pd.read_csv(AVATARS).fillna("")
    counts = spread(frame["label"], assign_folds(frame, 10, seed))
    assert np.abs(counts / counts.sum(axis=1, keepdims=True) - 0.1).max() < 0.01
