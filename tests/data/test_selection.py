"""Selections: whole groups, equal shares, seeds, draws and refusals."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from avatar_bench.data.dataset import DATASET_COLUMNS, Dataset
from avatar_bench.data.selection import (
    MIN_CALIBRATION_IMAGES,
    add_unlabelled_images,
    draw_shots,
    draw_stratified_rows,
    split_dataset,
    suggest_calibration_options,
)
from avatar_bench.data.splits import SplitPlan, assign_splits, check_groups, fingerprint_split
from avatar_bench.errors import ConfigError, DataError, GuardError


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


def test_a_tenth_is_test_a_tenth_is_val_in_halves_and_the_rest_train() -> None:
    counts = split_dataset(dataset(), SplitPlan()).frame["split"].value_counts(normalize=True)
    assert counts["train"] == pytest.approx(0.8, abs=0.02)
    assert counts["test"] == pytest.approx(0.1, abs=0.01)
    assert counts["val"] == pytest.approx(0.05, abs=0.01)
    assert counts["calibration"] == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_no_group_stands_on_two_sides_and_val_is_halved_by_group(seed: int) -> None:
    used = split_dataset(dataset(seed=seed), SplitPlan(seed=seed))
    assert used.frame.groupby("group")["split"].nunique().max() == 1


@pytest.mark.parametrize("seed", range(5))
def test_every_side_has_the_classes_in_the_shares_of_the_whole(seed: int) -> None:
    whole = dataset(4000, seed=seed)
    expected = whole.frame["label"].value_counts(normalize=True)
    found = shares(split_dataset(whole, SplitPlan(seed=seed)))
    assert (found.loc[["train", "test"]] - expected).abs().to_numpy().max() < 0.02
    assert (found - expected).abs().to_numpy().max() < 0.04  # halves of a tenth, of whole groups


def test_every_side_has_the_sources_in_the_shares_of_the_whole() -> None:
    whole = dataset(4000)
    found = pd.crosstab(split_dataset(whole, SplitPlan()).frame["split"], whole.frame["source"], normalize="index")
    expected = whole.frame["source"].value_counts(normalize=True)
    assert (found.loc[["train", "test"]] - expected).abs().to_numpy().max() < 0.02


@pytest.mark.parametrize("folds", [3, 5, 10])
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


def test_the_fingerprint_changes_when_an_image_changes_sides_and_not_with_order() -> None:
    used = split_dataset(dataset(100), SplitPlan())
    turned = used.take(np.arange(len(used))[::-1])
    moved = used.take(np.arange(len(used)))
    moved.frame.loc[0, "split"] = "test" if moved.frame.loc[0, "split"] != "test" else "train"
    assert fingerprint_split(used) == fingerprint_split(turned)
    assert fingerprint_split(used) != fingerprint_split(moved)


@pytest.mark.parametrize("fraction", [0.25, 0.5])
def test_a_fraction_of_train_keeps_its_shares_and_leaves_the_other_sides_alone(fraction: float) -> None:
    whole = dataset(2000)
    full, part = (split_dataset(whole, SplitPlan(fraction=share)) for share in (1.0, fraction))
    assert len(part.select_split("train")) == round(fraction * len(full.select_split("train")))
    assert paths(part, "train") < paths(full, "train")
    assert (shares(part).loc["train"] - shares(full).loc["train"]).abs().to_numpy().max() < 0.005
    for side in ("val", "calibration", "test"):
        assert paths(part, side) == paths(full, side)


def test_a_fraction_of_val_leaves_calibration_alone() -> None:
    whole = dataset(2000)
    full, part = (split_dataset(whole, SplitPlan(val_fraction=share)) for share in (1.0, 1 / 3))
    assert len(part.select_split("val")) == round(len(full.select_split("val")) / 3)
    for side in ("train", "calibration", "test"):
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


def test_few_shot_takes_all_of_a_class_that_has_fewer() -> None:
    labels = ["a"] * 3 + ["b"] * 30
    rows = draw_shots(labels, 5, seed=0)
    assert [labels[row] for row in rows] == ["a"] * 3 + ["b"] * 5
    assert len(set(rows)) == 8
    assert draw_shots([], 5, seed=0).tolist() == []


@pytest.mark.parametrize("n", [1, 3, 10, 57, 99])
def test_a_stratified_draw_is_of_n_rows_each_class_within_one_of_its_share(n: int) -> None:
    frame = dataset(100).frame
    rows = draw_stratified_rows(frame, n, seed=0)
    assert len(rows) == len(set(rows)) == n
    assert (np.diff(rows) > 0).all()
    drawn = frame["label"].iloc[rows].value_counts().reindex(["drawing", "generated", "real"], fill_value=0)
    assert (drawn - frame["label"].value_counts() * n / 100).abs().max() < 1


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


def test_a_stated_train_and_test_gives_val_from_train() -> None:
    whole = split_dataset(dataset(800), SplitPlan())
    sides = whole.frame["split"].where(whole.frame["split"] == "test", "train")
    used = split_dataset(Dataset(whole.name, whole.root, whole.frame.assign(split=sides)), SplitPlan())
    assert paths(used, "test") == paths(whole, "test")
    assert len(used.select_split("val")) + len(used.select_split("calibration")) == pytest.approx(
        0.1 * 0.9 * 800, abs=25
    )


def test_a_split_stated_for_some_images_alone_is_refused() -> None:
    whole = dataset(100, split="train")
    whole.frame.loc[7, "split"] = ""
    with pytest.raises(GuardError, match=r"7\.png"):
        split_dataset(whole, SplitPlan())


def test_a_stated_split_that_divides_a_group_is_refused() -> None:
    whole = dataset(100, split="train")
    whole.frame.loc[:1, "group"] = "twins"
    whole.frame.loc[0, "split"] = "test"
    with pytest.raises(GuardError, match="'twins'"):
        split_dataset(whole, SplitPlan())


def test_a_class_that_train_lacks_is_refused_by_name() -> None:
    whole = dataset(100, split="train")
    whole.frame.loc[whole.frame["label"] == "real", "split"] = "test"
    with pytest.raises(GuardError, match="'real' has no image in train"):
        split_dataset(whole, SplitPlan())


@pytest.mark.parametrize("plan", [SplitPlan(fold=10), SplitPlan(folds=2), SplitPlan(fold=-1)])
def test_a_fold_that_is_not_there_is_refused(plan: SplitPlan) -> None:
    with pytest.raises(ConfigError, match=f"fold={plan.fold}"):
        split_dataset(dataset(100), plan)


def test_the_only_val_images_choose_the_checkpoint() -> None:
    whole = dataset(60, largest=1, split="train")
    whole.frame.loc[[0, 1], "split"] = "val"
    whole.frame.loc[[0, 1], "group"] = "one"
    for seed in range(4):
        used = split_dataset(whole, SplitPlan(seed=seed))
        assert (len(used.select_split("val")), len(used.select_split("calibration"))) == (2, 0)


@pytest.mark.parametrize(("n", "halved"), [(36, False), (44, True)])
def test_val_is_halved_only_where_its_half_is_enough_to_fit_on(n: int, halved: bool) -> None:
    whole = dataset(120, largest=1, split="train")
    whole.frame.loc[whole.frame.index[:n], "split"] = "val"
    used = split_dataset(whole, SplitPlan())
    assert len(used.select_split("calibration")) == pytest.approx(halved * n / 2, abs=2)
    assert len(used.select_split("val")) + len(used.select_split("calibration")) == n


def test_a_set_of_too_few_groups_for_val_is_refused_before_training() -> None:
    whole = dataset(60)
    whole.frame["group"] = whole.frame["label"]
    whole.frame["source"] = ""
    with pytest.raises(GuardError, match="val is empty"):
        split_dataset(whole, SplitPlan(seed=1))


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


@pytest.mark.parametrize("plan", [SplitPlan(fold=5), SplitPlan(folds=4, fold=1)])
def test_a_fold_that_the_data_set_does_not_state_is_refused(plan: SplitPlan) -> None:
    with pytest.raises(ConfigError, match="states 5 folds, 0 to 4"):
        split_dataset(stated(dataset(600), folds=5), plan)


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


def test_another_seed_is_said_to_leave_a_stated_test_set_alone() -> None:
    whole, notes = stated(dataset(600)), list[str]()
    used = split_dataset(whole, SplitPlan(seed=5), notes)
    assert paths(used, "test") == paths(whole, "test")
    assert any("data.split.seed" in note for note in notes)


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


@pytest.mark.parametrize("fraction", [0.25, 0.5, 1])
def test_a_fraction_of_train_is_drawn_of_images_without_a_label_too(fraction: float) -> None:
    full, part = (with_undivided(SplitPlan(fraction=share)) for share in (1, fraction))
    drawn = [{path for path in paths(used, "train") if path.startswith("other/")} for used in (full, part)]
    assert [len(one) for one in drawn] == [100, round(100 * fraction)]
    assert drawn[1] <= drawn[0]


def test_an_image_without_a_label_goes_to_the_side_of_its_group_whatever_the_fraction() -> None:
    used = split_dataset(dataset(600, largest=1), SplitPlan(fraction=0.5))
    groups = {name: used.select_split(name).frame["group"].iat[0] for name in ("test", "val", "calibration")}
    change = {row: {"group": group} for row, group in enumerate(groups.values())}
    added = with_undivided(SplitPlan(fraction=0.5), change=change)
    for row, name in enumerate(groups):
        assert f"other/{row}.png" in paths(added, name)


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


@pytest.mark.parametrize(("n", "folds"), [(390, 9), (240, 5), (130, 3), (90, 0)])
def test_what_is_advised_for_calibration_is_the_fewest_folds_that_give_enough(n: int, folds: int) -> None:
    stated = dataset(n).frame.assign(split="train")  # as a prepared set states it
    images, plan = Dataset("drawn", Path("images"), stated), SplitPlan()
    advice = suggest_calibration_options(images, plan)
    sizes = {
        count: len(split_dataset(images, SplitPlan(by="group", folds=count)).select_split("calibration"))
        for count in range(9, 2, -1)
    }
    enough = [count for count, size in sizes.items() if size >= MIN_CALIBRATION_IMAGES]
    assert (enough or [0])[0] == pytest.approx(folds, abs=1)
    if enough:
        assert advice == f"train with data.split.by=group data.split.folds={enough[0]}"
    else:
        assert advice == "train on more images"
        assert (
            suggest_calibration_options(images, replace(plan, limit=n)) == "train on more images (a larger data.limit)"
        )


@pytest.mark.parametrize(("n", "groups"), [(240, 6), (300, 11), (390, 8)])
def test_what_is_advised_for_calibration_leaves_every_class_on_every_side(n: int, groups: int) -> None:
    frame = dataset(n).frame.reset_index(drop=True)
    of_class = frame["label"] == frame["label"].iloc[0]
    few = (of_class.cumsum() % groups).astype(str)  # a fold may have one of these, which val or calibration lacks
    images = Dataset("drawn", Path("images"), frame.assign(group=frame["group"].where(~of_class, few)))
    advice = suggest_calibration_options(images, SplitPlan())
    used = split_dataset(images, SplitPlan(by="group", folds=int(advice.rpartition("=")[2])))
    assert all(used.select_split(side).classes == images.classes for side in ("train", "val", "calibration", "test"))


@pytest.mark.parametrize("seed", range(3))
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


def test_val_by_source_leaves_out_what_a_group_joins_to_its_sources() -> None:
    whole = dataset()
    first = whole.frame.drop_duplicates("source").index  # one image of each source, in a group of all
    whole.frame.loc[first, "group"] = "mixed"
    notes: list[str] = []
    used = split_dataset(whole, SplitPlan(val_by="source"), notes)
    check_groups(used.frame)
    assert 0 < len(whole) - len(used) <= len(first)
    assert any(note.startswith("left out because") for note in notes)


def test_val_by_source_takes_the_place_of_a_stated_val_and_keeps_the_stated_test() -> None:
    whole = dataset()
    whole.frame["split"] = np.array(["train", "val", "test"])[whole.frame["group"].str[5:].astype(int) % 3]
    used = split_dataset(whole, SplitPlan(val_by="source"))
    assert paths(used, "test") == paths(whole, "test")
    val = set(used.select_split("val").frame["source"])
    assert val.isdisjoint(used.select_split("train").frame["source"])


def test_val_by_source_refuses_a_class_of_one_source_and_names_it() -> None:
    whole = dataset()
    whole.frame.loc[whole.frame["label"] == "real", "source"] = "studio"
    with pytest.raises(DataError, match=r"class 'real' has too few sources to hold one out for val \(studio\)"):
        split_dataset(whole, SplitPlan(val_by="source"))


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
