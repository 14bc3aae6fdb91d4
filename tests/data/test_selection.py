"""Selections: whole groups, equal shares, seeds, draws and refusals."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from avatar_bench.data import selection
from avatar_bench.data.dataset import DATASET_COLUMNS, Dataset
from avatar_bench.data.selection import add_unlabelled_images, draw_shots, split_dataset, suggest_calibration_options
from avatar_bench.data.splits import SplitPlan, assign_splits, check_groups, fingerprint_split
from avatar_bench.errors import ConfigError, DataError, GuardError

CLASSES = ("drawing", "generated", "real")
SIDES = ("train", "val", "calibration", "test")


def dataset(n=1500, largest=5, seed=0, split=""):
    """Return rows of three classes 5:3:2, two to four sources each, and groups of 1 to `largest` rows."""
    rng = np.random.default_rng(seed)
    rows = []
    while len(rows) < n:
        label = rng.choice(list(CLASSES), p=[0.5, 0.3, 0.2])
        source = f"{label}{rng.integers({'drawing': 4, 'generated': 3, 'real': 2}[label])}"
        rows += [(label, source, f"group{len(rows)}")] * int(rng.integers(1, largest + 1))
    frame = pd.DataFrame(rows[:n], columns=["label", "source", "group"])
    frame["path"] = [f"{row}.png" for row in range(n)]
    frame["sha256"] = [f"{row:064x}" for row in range(n)]
    frame = frame.reindex(columns=list(DATASET_COLUMNS), fill_value="").assign(split=split)
    return Dataset("drawn", Path("images"), frame)


def change(whole, **columns):
    """Return the rows with other columns, each a value or a function of the frame."""
    return Dataset(whole.name, whole.root, whole.frame.assign(**columns))


def with_folds(n=300, folds=10, split=True):
    """State the folds of n rows, and the sides of fold 0 where `split` is wanted."""
    whole = dataset(n)
    sides, fold = assign_splits(whole.frame, SplitPlan(folds=folds))
    return change(whole, fold=[str(number) for number in fold], split=sides if split else "")


def paths(used, *sides):
    return set(used.frame["path"][used.frame["split"].isin(sides)])


def sources(used, *sides):
    return set(used.frame["source"][used.frame["split"].isin(sides)])


def shares(used, column="label"):
    return pd.crosstab(used.frame["split"], used.frame[column], normalize="index")


@pytest.mark.parametrize("seed", range(2))
def test_sides_have_their_sizes_whole_groups_and_the_shares_of_classes_and_sources(seed):
    whole = dataset(4000, seed=seed)
    used = split_dataset(whole, SplitPlan(seed=seed))
    sizes = used.frame["split"].value_counts(normalize=True)
    assert sizes.to_dict() == pytest.approx({"train": 0.8, "test": 0.1, "val": 0.05, "calibration": 0.05}, abs=0.01)
    assert used.frame.groupby("group")["split"].nunique().max() == 1
    for column in ("label", "source"):
        deviation = (shares(used, column) - whole.frame[column].value_counts(normalize=True)).abs()
        assert deviation.loc[["train", "test"]].to_numpy().max() < 0.02
        assert column == "source" or deviation.to_numpy().max() < 0.04  # halves of a tenth, of whole groups


def test_a_stated_fold_is_test_whatever_the_seed_and_the_next_one_val():
    for split in [True, False]:
        whole = with_folds(folds=5, split=split)
        fold = dict(zip(whole.frame["path"], whole.frame["fold"], strict=True))
        for number in range(5):
            used = split_dataset(whole, SplitPlan(fold=number))
            assert {fold[path] for path in paths(used, "test")} == {str(number)}
            assert {fold[path] for path in paths(used, "val", "calibration")} == {str((number + 1) % 5)}
    whole, notes = with_folds(), list[str]()
    used = split_dataset(whole, SplitPlan(seed=5), notes)
    assert paths(used, "test") == paths(whole, "test")
    assert any("data.split.seed" in note for note in notes)


def test_the_seed_fixes_the_split_and_its_fingerprint_whatever_the_order_of_rows():
    whole = dataset(400)
    shuffled = whole.take(np.random.default_rng(1).permutation(len(whole)))
    first, again, other = (split_dataset(whole, SplitPlan(seed=seed)) for seed in (3, 3, 4))
    assert first.frame.equals(again.frame)
    assert paths(first, "test") != paths(other, "test")
    assert paths(first, "test") == paths(split_dataset(shuffled, SplitPlan(seed=3)), "test")
    used = split_dataset(dataset(100), SplitPlan())
    turned = used.take(np.arange(len(used))[::-1])
    moved = change(used, split=["test" if used.frame["split"][0] != "test" else "train", *used.frame["split"][1:]])
    assert fingerprint_split(used) == fingerprint_split(turned)
    assert fingerprint_split(used) != fingerprint_split(moved)


@pytest.mark.parametrize(("side", "fraction"), [("train", 0.25), ("train", 0.5), ("val", 1 / 3)])
def test_a_fraction_of_a_side_keeps_its_shares_and_leaves_the_other_sides_alone(side, fraction):
    plan = SplitPlan(fraction=fraction) if side == "train" else SplitPlan(val_fraction=fraction)
    full, part = (split_dataset(dataset(2000), plan) for plan in (SplitPlan(), plan))
    assert len(part.select_split(side)) == round(fraction * len(full.select_split(side)))
    assert paths(part, side) < paths(full, side)
    assert (shares(part).loc[side] - shares(full).loc[side]).abs().max() < (0.005 if side == "train" else 0.02)
    assert all(paths(part, name) == paths(full, name) for name in SIDES if name != side)


def test_a_limit_or_a_stratified_draw_is_of_that_many_in_the_shares_of_the_whole():
    whole = dataset(2000)
    used = split_dataset(whole, SplitPlan(limit=500))
    assert len(used) == 500
    drawn = used.frame["label"].value_counts(normalize=True)
    assert (drawn - whole.frame["label"].value_counts(normalize=True)).abs().max() < 0.002
    assert paths(used, "test") != paths(split_dataset(whole, SplitPlan(limit=500, seed=1)), "test")
    assert len(split_dataset(whole, SplitPlan(limit=9999))) == 2000
    for n in [1, 3, 10, 57, 99]:
        frame = dataset(100).frame
        rows = selection.draw_stratified_rows(frame, n, seed=0)
        assert len(rows) == len(set(rows)) == n
        assert (np.diff(rows) > 0).all()
        drawn = frame["label"].iloc[rows].value_counts().reindex(CLASSES, fill_value=0)
        assert (drawn - frame["label"].value_counts() * n / 100).abs().max() < 1


def test_few_shot_takes_equal_shots_by_the_seed_of_training_and_all_of_a_class_that_has_fewer():
    whole, plan = dataset(1500), SplitPlan(shots=20, val_shots=5)
    draws = [split_dataset(whole, replace(plan, draw_seed=seed)) for seed in (1, 1, 2)]
    for used in draws:
        assert used.select_split("train").frame["label"].value_counts().to_dict() == dict.fromkeys(CLASSES, 20)
        assert set(used.select_split("val").frame["label"].value_counts()) == {5}
        assert all(paths(used, side) == paths(draws[0], side) for side in ("test", "calibration"))
    assert draws[0].frame.equals(draws[1].frame)
    assert paths(draws[0], "train") != paths(draws[2], "train")
    labels = ["a"] * 3 + ["b"] * 30
    rows = draw_shots(labels, 5, seed=0)
    assert ([labels[row] for row in rows], len(set(rows))) == (["a"] * 3 + ["b"] * 5, 8)
    assert draw_shots([], 5, seed=0).tolist() == []


def test_a_stated_split_is_kept_and_its_val_taken_from_train_or_halved_if_large_enough_to_fit_on():
    whole = split_dataset(dataset(800), SplitPlan())
    assert split_dataset(whole, SplitPlan(seed=9)).frame["split"].tolist() == whole.frame["split"].tolist()
    sides = whole.frame["split"].replace("calibration", "val")
    used = split_dataset(change(whole, split=sides), SplitPlan(seed=9))
    for halves in (["train"], ["test"], ["val", "calibration"]):
        assert paths(used, *halves) == paths(whole, *halves)
    assert abs(len(paths(used, "val")) - len(paths(used, "calibration"))) <= 40
    used = split_dataset(change(whole, split=sides.replace("val", "train")), SplitPlan())
    assert paths(used, "test") == paths(whole, "test")
    assert len(paths(used, "val", "calibration")) == pytest.approx(0.1 * 0.9 * 800, abs=25)
    for n, calibration in [(2, 0), (36, 0), (44, 22)]:
        stated = np.where(np.arange(120) < n, "val", "train")
        used = split_dataset(change(dataset(120, largest=1), split=stated), SplitPlan())
        assert len(paths(used, "calibration")) == pytest.approx(calibration, abs=2 * (calibration > 0))
        assert len(paths(used, "val", "calibration")) == n


def test_a_plan_that_the_images_cannot_meet_is_refused():
    train, folds = dataset(100, split="train"), with_folds(folds=5)
    frame = train.frame
    some = change(train, split=frame["split"].where(frame.index != 7, ""))
    twins = change(train, split=frame["split"].where(frame.index > 0, "test"))
    twins = change(twins, group=frame["group"].where(frame.index > 1, "twins"))
    two_classes = change(train, split=frame["split"].where(frame["label"] != "real", "test"))
    large_groups = change(dataset(60), group=lambda frame: frame["label"], source="")
    studio = change(dataset(), source=lambda frame: frame["source"].where(frame["label"] != "real", "studio"))
    too_few = r"class 'real' has too few sources to hold one out for val \(studio\)"
    for whole, plan, error, message in (
        (some, SplitPlan(), GuardError, r"none for 7\.png"),
        (twins, SplitPlan(), GuardError, "'twins'"),
        (two_classes, SplitPlan(), GuardError, "'real' has no image in train"),
        (large_groups, SplitPlan(seed=1), GuardError, "val is empty"),
        (studio, SplitPlan(val_by="source"), DataError, too_few),
        (dataset(100), SplitPlan(fold=10), ConfigError, "fold=10"),
        (dataset(100), SplitPlan(folds=2), ConfigError, "fold=0"),
        (dataset(100), SplitPlan(fold=-1), ConfigError, "fold=-1"),
        (folds, SplitPlan(fold=5), ConfigError, "data.fold=5, .* states 5 folds, 0 to 4"),
        (folds, SplitPlan(folds=4, fold=1), ConfigError, "data.fold=1, .* states 5 folds"),
    ):
        with pytest.raises(error, match=message):
            split_dataset(whole, plan)


def test_an_option_that_a_stated_split_leaves_without_effect_is_refused():
    whole = change(with_folds(600), fold="")
    for option, plan in (
        ("data.fold=1", SplitPlan(fold=1)),
        ("data.split.folds=5", SplitPlan(folds=5)),
        ("data.split.held_out", SplitPlan(held_out=("real0",))),
    ):
        with pytest.raises(ConfigError, match=re.escape(option)):
            split_dataset(whole, plan)
        assert split_dataset(whole, replace(plan, by="group", held_out=())).frame["split"].nunique() == 4


def test_what_a_held_out_source_leaves_out_is_noted_and_a_group_that_holds_it_stands_on_no_other_side():
    whole, notes = with_folds(), list[str]()  # by= splits anew, whatever is stated
    first = whole.frame.drop_duplicates("source").set_index("source")
    group = whole.frame["group"].where(whole.frame["path"] != first["path"]["drawing1"], first["group"]["drawing0"])
    used = split_dataset(change(whole, group=group), SplitPlan(by="source", held_out=("drawing0",)), notes)
    assert (sources(used, "test"), len(used)) == ({"drawing0"}, len(whole) - 1)
    assert any(note.startswith("left out") and note.endswith(" 1 image") for note in notes)
    assert not any("class" in note for note in notes)  # no proportions are planned
    plan = SplitPlan(by="source", held_out=("real0",))
    used = split_dataset(dataset(600, largest=1), plan)
    first = {name: used.select_split(name).frame.iloc[0] for name in ("train", "val")}
    groups = ["pair", "pair", "three", "three", first["train"]["group"], first["val"]["group"]]
    names = ["real0", "", "drawing0", "real0", "real0", "real0"]  # the second is a copy that names no source
    added = with_undivided(plan, groups, names=names)
    assert {f"other/{row}.png" for row in range(6)} <= paths(added, "test")
    assert set(used.frame["path"]) - set(added.frame["path"]) == {str(row["path"]) for row in first.values()}
    check_groups(added.frame)


def with_undivided(plan, groups, names=(), n=100):
    """Split 600 images by a plan, and add `n` without a label, the first of them of these groups and sources."""
    used = split_dataset(dataset(600, largest=1), plan)
    others = dataset(n, largest=1, seed=1).frame.assign(label="", source="")
    others["path"], others["group"] = "other/" + others["path"], "other-" + others["group"]
    others.loc[: len(groups) - 1, "group"] = groups
    others["source"] = [*names, *[""] * (n - len(names))]
    return add_unlabelled_images(used, used.frame["group"].to_numpy(str), others, plan, [])


@pytest.mark.parametrize("fraction", [0.25, 0.5, 1])
def test_a_fraction_of_train_is_drawn_of_images_without_a_label_but_those_of_another_side(fraction):
    used = split_dataset(dataset(600, largest=1), SplitPlan(fraction=fraction))
    groups = {side: used.select_split(side).frame["group"].iat[0] for side in ("test", "val", "calibration")}
    full, part = (with_undivided(SplitPlan(fraction=share), list(groups.values()), n=103) for share in (1, fraction))
    drawn = [{path for path in paths(added, "train") if path.startswith("other/")} for added in (full, part)]
    assert [len(added) for added in drawn] == [100, round(100 * fraction)]
    assert drawn[1] <= drawn[0]
    for row, side in enumerate(groups):  # with its group, whatever the fraction
        assert f"other/{row}.png" in paths(part, side)


@pytest.mark.slow
def test_what_is_advised_for_calibration_is_the_fewest_folds_that_give_enough_and_every_class():
    for n, folds in [(390, 9), (240, 5), (90, 0)]:
        images, plan = dataset(n, split="train"), SplitPlan()  # as a prepared set states it
        advice = suggest_calibration_options(images, plan)
        by_count = {count: split_dataset(images, SplitPlan(by="group", folds=count)) for count in range(9, 2, -1)}
        sizes = {count: len(used.select_split("calibration")) for count, used in by_count.items()}
        enough = [count for count, size in sizes.items() if size >= selection.MIN_CALIBRATION_IMAGES]
        assert (enough or [0])[0] == pytest.approx(folds, abs=1)
        if enough:
            assert advice == f"train with data.split.by=group data.split.folds={enough[0]}"
        else:
            limited = suggest_calibration_options(images, replace(plan, limit=n))
            assert [advice, limited] == ["train on more images", "train on more images (a larger data.limit)"]
    for n, groups in [(240, 6), (300, 11), (390, 8)]:
        frame = dataset(n).frame
        of_class = frame["label"] == frame["label"].iloc[0]
        few = (of_class.cumsum() % groups).astype(str)  # a fold may have one of these, which val or calibration lacks
        images = change(dataset(n), group=frame["group"].where(~of_class, few))
        advice = suggest_calibration_options(images, SplitPlan())
        used = split_dataset(images, SplitPlan(by="group", folds=int(advice.rpartition("=")[2])))
        assert all(used.select_split(side).classes == images.classes for side in SIDES)


def test_val_by_source_consists_of_whole_sources_and_leaves_test_alone():
    for seed in range(3):
        whole = dataset(seed=seed)
        plain = split_dataset(whole, SplitPlan(seed=seed))
        used = split_dataset(whole, SplitPlan(seed=seed, val_by="source"))
        assert paths(used, "test") == paths(plain, "test")
        assert not sources(used, "train") & sources(used, "val", "calibration")
        assert all(set(rows["split"]) == set(SIDES) for _, rows in used.frame.groupby("label"))
        assert fingerprint_split(used) == fingerprint_split(split_dataset(whole, SplitPlan(seed=seed, val_by="source")))
        assert len(used) == len(whole)
    whole, notes = dataset(), list[str]()
    first = whole.frame.drop_duplicates("source").index  # one image of each source, in a group of all
    whole.frame.loc[first, "group"] = "mixed"
    used = split_dataset(whole, SplitPlan(val_by="source"), notes)
    check_groups(used.frame)
    assert 0 < len(whole) - len(used) <= len(first)
    assert any(note.startswith("left out because") for note in notes)
    whole = dataset()
    whole.frame["split"] = np.array(["train", "val", "test"])[whole.frame["group"].str[5:].astype(int) % 3]
    used = split_dataset(whole, SplitPlan(val_by="source"))
    assert paths(used, "test") == paths(whole, "test")
    assert not sources(used, "val") & sources(used, "train")


def test_train_sources_are_drawn_for_each_class_and_nested_and_share_one_test_set():
    whole, notes = dataset(), list[str]()
    plan = SplitPlan(by="source", held_out=("drawing0",), draw_seed=1)
    by_count = {n: split_dataset(whole, replace(plan, train_sources=n), notes if n == 3 else None) for n in (1, 2, 3)}
    names = {n: sources(used, "train") for n, used in by_count.items()}
    counts = [used.select_split("train").frame.groupby("label")["source"].nunique() for used in by_count.values()]
    assert [list(of_class[list(CLASSES)]) for of_class in counts] == [[1, 1, 1], [2, 2, 2], [3, 3, 2]]
    assert [note for note in notes if "to train on" in note] == ["class real has 2 sources to train on, not 3"]
    assert names[1] < names[2] < names[3]
    for used in by_count.values():  # epochs are chosen on sources of training
        assert sources(used, "val") <= sources(used, "train")
        assert paths(used, "test") == paths(by_count[1], "test") != set()
    of_one = [split_dataset(whole, replace(plan, train_sources=1, draw_seed=seed)) for seed in range(8)]
    assert len({frozenset(sources(used, "train")) for used in of_one}) > 2
    held_out = split_dataset(whole, replace(plan, train_sources=1, val_by="source"))
    assert not sources(held_out, "val") & sources(held_out, "train")
    assert held_out.select_split("val").classes == CLASSES


def dated(rows):
    """Return rows of (class, date, release, group or "", number)."""
    images = [row[:4] for row in rows for _ in range(row[4])]
    groups = [group or f"g{row}" for row, (*_, group) in enumerate(images)]
    label, date, released = (list(column) for column in [*zip(*images, strict=True)][:3])
    return change(
        dataset(len(images), largest=1), label=label, date=date, released=released, group=groups, source=label
    )


BY_MONTH = SplitPlan(by="date", until="2024-06", folds=4)
DATED = [
    *(("drawing", "2019", "", "", 40), ("drawing", "2024-06-30", "", "", 8), ("drawing", "2024-07", "", "", 5)),
    *(("generated", "2023-05", "2022", "", 30), ("generated", "", "2024-08", "", 6), ("generated", "", "2022", "", 7)),
    *(("generated", "2024", "", "", 2), ("drawing", "", "", "", 3)),
]


def test_a_split_by_date_tests_on_later_images_and_groups_and_leaves_out_unknown_ones():
    whole, notes = dated(DATED), list[str]()
    used = split_dataset(whole, BY_MONTH, notes)
    counts = pd.crosstab(used.frame["split"], [used.frame["label"], used.frame["date"]])
    assert counts.loc["test"][counts.loc["test"] > 0].to_dict() == {("drawing", "2024-07"): 5, ("generated", ""): 6}
    before = used.frame[used.frame["split"] != "test"]
    assert before["date"].value_counts().to_dict() == {"2019": 40, "2023-05": 30, "2024-06-30": 8}
    assert (before["split"] == "train").mean() == pytest.approx(2 / 3, abs=0.03)  # of the folds that are not test
    assert notes == [
        "left out of train and test: 12 of 101 images, which may be before or after 2024-06 "
        "(without a date: 10, of which 7 of a generator that was released before)"
    ]
    rows = [*DATED, *(("drawing", date, "", "both", n) for date, n in (("2020", 2), ("2025", 1), ("", 1)))]
    notes = []
    used = split_dataset(dated(rows), BY_MONTH, notes)
    assert used.frame.loc[used.frame["group"] == "both", ["date", "split"]].to_numpy().tolist() == [["2025", "test"]]
    assert "left out because their groups also contain later images: 2 images" in notes
    check_groups(used.frame)
    for until, missing in (("1900", "before"), ("2030", "after")):
        with pytest.raises(DataError) as error:
            split_dataset(dated(DATED), replace(BY_MONTH, until=until))
        assert f"none is {missing} that (dates are 2019 to 2024-07)" in str(error.value)
        assert len(error.value.lines) <= 3


def test_unlabelled_images_are_not_learned_from_if_they_are_later():
    used = split_dataset(dated(DATED), BY_MONTH)
    others = dated([("", date, "", "", n) for date, n in (("2020", 4), ("2025", 3), ("", 2), ("2019", 1))])
    frame = others.frame.assign(group=[f"u{row}" for row in range(9)] + ["later"])
    test_row = int(np.flatnonzero(used.frame["split"] == "test")[0])
    groups = used.frame["group"].where(np.arange(len(used)) != test_row, "later").to_numpy()
    joined = add_unlabelled_images(used, groups, frame, BY_MONTH, [])
    added = joined.frame[joined.frame["label"] == ""][["date", "split"]].value_counts().to_dict()
    assert added == {("2020", "train"): 4, ("2025", "test"): 3, ("2019", "test"): 1}
