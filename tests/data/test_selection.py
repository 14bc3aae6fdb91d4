"""Selections: whole groups, equal shares, seeds, draws and refusals."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from avatar_bench.data.dataset import DATASET_COLUMNS, Dataset
from avatar_bench.data.selection import add_unlabelled_images, split_dataset
from avatar_bench.data.splits import SplitPlan, assign_splits, check_groups, fingerprint_split
from avatar_bench.errors import ConfigError, GuardError


def dataset(n: int = 1500, largest: int = 5, seed: int = 0, split: str = "") -> Dataset:
    """Return rows of three classes 5:3:2, two to four sources each, and groups of 1 to `largest` rows."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[str, str, str]] = []
    while len(rows) < n:
        label = rng.choice(["drawing", "generated", "real"], p=[0.5, 0.3, 0.2])
        source = f"{label}{rng.integers({'drawing': 4, 'generated': 3, 'real': 2}[label])}"
        rows += [(label, source, f"group{len(rows)}")] * int(rng.integers(1, largest + 1))
    frame = pd.DataFrame(rows[:n], columns=["label", "source", "group"])
    frame["path"] = [f"{row}.png" for row in range(n)]
    frame["sha256"] = [f"{row:064x}" for row in range(n)]
    return Dataset(
        "drawn", Path("images"), frame.reindex(columns=list(DATASET_COLUMNS), fill_value="").assign(split=split)
    )


def paths(used: Dataset, split: str) -> set[str]:
    return set(used.select_split(split).frame["path"])


def shares(used: Dataset) -> pd.DataFrame:
    return pd.crosstab(used.frame["split"], used.frame["label"], normalize="index")


@pytest.mark.parametrize("seed", range(2))
def test_whole_groups_fill_the_sides_each_with_the_classes_in_the_shares_of_the_whole(seed: int) -> None:
    whole = dataset(4000, seed=seed)
    used = split_dataset(whole, SplitPlan(seed=seed))
    sizes = used.frame["split"].value_counts(normalize=True).to_dict()
    assert sizes == pytest.approx({"train": 0.8, "test": 0.1, "val": 0.05, "calibration": 0.05}, abs=0.01)
    assert used.frame.groupby("group")["split"].nunique().max() == 1
    apart = (shares(used) - whole.frame["label"].value_counts(normalize=True)).abs()
    assert apart.loc[["train", "test"]].to_numpy().max() < 0.02
    assert apart.to_numpy().max() < 0.04  # halves of a tenth, of whole groups


@pytest.mark.parametrize("folds", [3, 10])
def test_the_test_sets_of_all_folds_are_the_whole_each_image_once(folds: int) -> None:
    whole = dataset(600)
    sides = [split_dataset(whole, SplitPlan(folds=folds, fold=fold)) for fold in range(folds)]
    tested = [path for used in sides for path in used.select_split("test").frame["path"]]
    assert sorted(tested) == sorted(whole.frame["path"])
    for fold in range(folds):
        after = sides[(fold + 1) % folds]
        assert paths(sides[fold], "val") | paths(sides[fold], "calibration") == paths(after, "test")


def test_the_seed_fixes_the_split_and_the_order_of_rows_does_not_matter() -> None:
    whole = dataset(400)
    shuffled = whole.take(np.random.default_rng(1).permutation(len(whole)))
    first, again, other = (split_dataset(whole, SplitPlan(seed=seed)) for seed in (3, 3, 4))
    assert first.frame.equals(again.frame)
    assert paths(first, "test") != paths(other, "test")
    assert paths(first, "test") == paths(split_dataset(shuffled, SplitPlan(seed=3)), "test")


def test_a_fraction_of_train_keeps_its_shares_and_leaves_the_other_sides_alone() -> None:
    whole = dataset(2000)
    full, part = (split_dataset(whole, SplitPlan(fraction=share)) for share in (1.0, 0.25))
    assert len(part.select_split("train")) == round(0.25 * len(full.select_split("train")))
    assert paths(part, "train") < paths(full, "train")
    assert (shares(part).loc["train"] - shares(full).loc["train"]).abs().to_numpy().max() < 0.005
    for side in ("val", "calibration", "test"):
        assert paths(part, side) == paths(full, side)


def test_a_limit_draws_that_many_of_the_whole_in_its_own_shares() -> None:
    whole = dataset(2000)
    used = split_dataset(whole, SplitPlan(limit=500))
    assert len(used) == 500
    drawn = used.frame["label"].value_counts(normalize=True)
    assert (drawn - whole.frame["label"].value_counts(normalize=True)).abs().max() < 0.002
    assert paths(used, "test") != paths(split_dataset(whole, SplitPlan(limit=500, seed=1)), "test")
    assert len(split_dataset(whole, SplitPlan(limit=9999))) == 2000


def test_few_shot_takes_equal_shots_per_class_by_the_seed_of_training() -> None:
    whole, plan = dataset(1500), SplitPlan(shots=20, val_shots=5)
    draws = [split_dataset(whole, replace(plan, draw_seed=seed)) for seed in (1, 1, 2)]
    for used in draws:
        assert used.select_split("train").frame["label"].value_counts().to_dict() == dict.fromkeys(
            ("drawing", "generated", "real"), 20
        )
        assert set(used.select_split("val").frame["label"].value_counts()) == {5}
        assert paths(used, "test") == paths(draws[0], "test")
        assert paths(used, "calibration") == paths(draws[0], "calibration")
    assert draws[0].frame.equals(draws[1].frame)
    assert paths(draws[0], "train") != paths(draws[2], "train")


def test_a_stated_split_is_kept_and_its_val_halved() -> None:
    whole = split_dataset(dataset(800), SplitPlan())
    stated = Dataset(
        whole.name, whole.root, whole.frame.assign(split=whole.frame["split"].replace("calibration", "val"))
    )
    used = split_dataset(stated, SplitPlan(seed=9))
    for side in ("train", "test"):
        assert paths(used, side) == paths(stated, side)
    assert paths(used, "val") | paths(used, "calibration") == paths(stated, "val")
    assert abs(len(used.select_split("val")) - len(used.select_split("calibration"))) <= 40
    assert split_dataset(whole, SplitPlan(seed=9)).frame["split"].tolist() == whole.frame["split"].tolist()


@pytest.mark.parametrize(
    ("rows", "column", "value", "reason"),
    [
        (7, "split", "", r"7\.png"),
        ([0, 99], "group", "twins", "'twins'"),
        (slice(0, 98), "split", "test", "has no image in train"),
    ],
)
def test_a_stated_split_that_is_incomplete_or_divides_a_group_or_class_is_refused(
    rows: Any, column: str, value: str, reason: str
) -> None:
    whole = dataset(100, split="train")
    whole.frame.loc[99, "split"] = "test"
    whole.frame.loc[rows, column] = value
    with pytest.raises(GuardError, match=reason):
        split_dataset(whole, SplitPlan())


@pytest.mark.parametrize("plan", [SplitPlan(fold=10), SplitPlan(folds=2), SplitPlan(fold=-1)])
def test_a_fold_that_is_not_there_is_refused(plan: SplitPlan) -> None:
    with pytest.raises(ConfigError, match=f"fold={plan.fold}"):
        split_dataset(dataset(100), plan)


def stated(whole: Dataset, folds: int = 10, split: bool = True) -> Dataset:
    """State the folds, and the sides of fold 0 where `split` is wanted."""
    sides, fold = assign_splits(whole.frame, SplitPlan(folds=folds))
    frame = whole.frame.assign(fold=[str(number) for number in fold], split=sides if split else "")
    return Dataset(whole.name, whole.root, frame)


@pytest.mark.parametrize("split", [True, False])
def test_a_stated_fold_is_test_and_the_next_one_val(split: bool) -> None:
    whole = stated(dataset(600), folds=5, split=split)
    fold = dict(zip(whole.frame["path"], whole.frame["fold"], strict=True))
    for number in range(5):
        used = split_dataset(whole, SplitPlan(fold=number))
        assert {fold[path] for path in paths(used, "test")} == {str(number)}
        assert {fold[path] for path in paths(used, "val") | paths(used, "calibration")} == {str((number + 1) % 5)}


@pytest.mark.parametrize(
    ("plan", "option"),
    [
        (SplitPlan(fold=1), "data.fold=1"),
        (SplitPlan(folds=5), "data.split.folds=5"),
        (SplitPlan(held_out=("real0",)), "data.split.held_out"),
    ],
)
def test_an_option_that_a_stated_split_leaves_without_effect_is_refused(plan: SplitPlan, option: str) -> None:
    whole = stated(dataset(600))
    whole.frame["fold"] = ""
    with pytest.raises(ConfigError, match=re.escape(option)):
        split_dataset(whole, plan)
    assert split_dataset(whole, replace(plan, by="group", held_out=())).frame["split"].nunique() == 4


def test_a_held_out_source_is_all_of_test_and_no_image_of_it_is_in_train_or_val() -> None:
    notes = list[str]()
    whole = stated(dataset(600))  # by= splits anew, whatever is stated
    bridge = whole.frame.index[whole.frame["source"] == "drawing0"][0]
    other = whole.frame.index[whole.frame["source"] == "drawing1"][0]
    whole.frame.loc[other, "group"] = whole.frame["group"][bridge]
    used = split_dataset(whole, SplitPlan(by="source", held_out=("drawing0",)), notes)
    assert set(used.select_split("test").frame["source"]) == {"drawing0"}
    assert "drawing0" not in set(used.frame["source"][used.frame["split"] != "test"])
    assert len(used) == len(whole) - 1
    assert any(note.startswith("left out") and note.endswith(" 1 image") for note in notes)
    assert any("test lacks class real" in note for note in notes)


def with_undivided(plan: SplitPlan, n: int = 100, change: dict[int, dict[str, str]] | None = None) -> Dataset:
    """Split 600 images by a plan, and add `n` without a label, each a group of its own but for `change`."""
    used = split_dataset(dataset(600, largest=1), plan)
    others = dataset(n, largest=1, seed=1).frame.assign(label="", source="")
    others["path"], others["group"] = "other/" + others["path"], "other-" + others["group"]
    for row, values in (change or {}).items():
        others.loc[row, list(values)] = list(values.values())
    return add_unlabelled_images(used, used.frame["group"].to_numpy(str), others, plan, [])


def test_a_group_that_holds_a_held_out_source_stands_on_no_other_side() -> None:
    plan = SplitPlan(by="source", held_out=("real0",))
    used = split_dataset(dataset(600, largest=1), plan)
    first = {name: used.select_split(name).frame.iloc[0] for name in ("train", "val")}
    change = {
        0: {"group": "pair", "source": "real0"},
        1: {"group": "pair"},  # a copy of it that names no source
        2: {"group": "three", "source": "drawing0"},
        3: {"group": "three", "source": "real0"},
        4: {"group": str(first["train"]["group"]), "source": "real0"},
        5: {"group": str(first["val"]["group"]), "source": "real0"},
    }
    added = with_undivided(plan, change=change)
    assert {f"other/{row}.png" for row in change} <= paths(added, "test")
    left_out = {str(row["path"]) for row in first.values()}
    assert set(used.frame["path"]) - set(added.frame["path"]) == left_out
    check_groups(added.frame)


@pytest.mark.parametrize("seed", range(2))
def test_val_by_source_consists_of_whole_sources_and_every_class_is_in_val_and_in_train(seed: int) -> None:
    whole = dataset(seed=seed)
    plain = split_dataset(whole, SplitPlan(seed=seed))
    used = split_dataset(whole, SplitPlan(seed=seed, val_by="source"))
    assert paths(used, "test") == paths(plain, "test")
    side = used.frame["split"].replace("calibration", "val")
    sides = side[side != "test"].groupby(used.frame["source"]).unique().map(set)
    assert all(len(names) == 1 for names in sides)
    for __, rows in used.frame.groupby("label"):
        assert set(rows["split"]) == {"train", "val", "calibration", "test"}
    assert fingerprint_split(used) == fingerprint_split(split_dataset(whole, SplitPlan(seed=seed, val_by="source")))
    assert len(used) == len(whole)


def test_train_sources_are_drawn_for_each_class_and_nested_and_share_one_test_set() -> None:
    whole, notes = dataset(), []
    plan = SplitPlan(by="source", held_out=("drawing0",), draw_seed=1)
    used = {n: split_dataset(whole, replace(plan, train_sources=n), notes if n == 3 else None) for n in (1, 2, 3)}
    names = {n: set(one.select_split("train").frame["source"]) for n, one in used.items()}
    counts = [one.select_split("train").frame.groupby("label")["source"].nunique().to_dict() for one in used.values()]
    assert counts[:2] == [dict.fromkeys(("drawing", "generated", "real"), n) for n in (1, 2)]
    assert counts[2] == {"drawing": 3, "generated": 3, "real": 2}
    assert [note for note in notes if "to train on" in note] == ["class real has 2 sources to train on, not 3"]
    assert names[1] < names[2] < names[3]
    for one in used.values():  # epochs are chosen on sources of training
        assert set(one.select_split("val").frame["source"]) <= set(one.select_split("train").frame["source"])
        assert paths(one, "test") == paths(used[1], "test") != set()
    drawn = {
        frozenset(
            split_dataset(whole, replace(plan, train_sources=1, draw_seed=seed)).select_split("train").frame["source"]
        )
        for seed in range(8)
    }
    assert len(drawn) > 2
    held_out = split_dataset(whole, replace(plan, train_sources=1, val_by="source"))
    assert not set(held_out.select_split("val").frame["source"]) & set(held_out.select_split("train").frame["source"])
    assert set(held_out.select_split("val").frame["label"]) == {"drawing", "generated", "real"}


@pytest.mark.parametrize(("n", "halved"), [(36, False), (44, True)])
def test_val_is_halved_only_where_its_half_is_enough_to_fit_on(n: int, halved: bool) -> None:
    whole = dataset(120, largest=1, split="train")
    whole.frame.loc[whole.frame.index[:n], "split"] = "val"
    used = split_dataset(whole, SplitPlan())
    assert len(used.select_split("calibration")) == pytest.approx(halved * n / 2, abs=2)
    assert len(used.select_split("val")) + len(used.select_split("calibration")) == n


def test_val_by_source_leaves_out_what_a_group_joins_to_its_sources() -> None:
    whole = dataset()
    first = whole.frame.drop_duplicates("source").index  # one image of each source, in a group of all
    whole.frame.loc[first, "group"] = "mixed"
    notes: list[str] = []
    used = split_dataset(whole, SplitPlan(val_by="source"), notes)
    check_groups(used.frame)
    assert 0 < len(whole) - len(used) <= len(first)
    assert any(note.startswith("left out because") for note in notes)
