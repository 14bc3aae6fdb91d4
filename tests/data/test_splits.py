"""Splits: sides by group, by held-out source or generator, beside earlier sides, and what is said of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from avatar_bench.data import splits
from avatar_bench.errors import ConfigError, DataError, GuardError

AVATARS = Path(__file__).parents[3] / "shared" / "data" / "avatars.csv"
SOURCES = {"drawing": ("ink", "crayon", "vector"), "generated": ("gan", "diffusion", "mixed"), "real": ("studio",)}


@pytest.fixture
def frame():
    """900 rows of three classes: groups of two rows, generators named in one class, real photos of one source."""
    numbered = [(label, names, k // 2) for label, names in SOURCES.items() for k in range(300)]
    named = [(label, names[k % len(names)], f"{label}{k}") for label, names, k in numbered]
    made = pd.DataFrame(named, columns=["label", "source", "group"]).assign(split="")
    return made.assign(generator=made["source"].where(made["label"] == "generated", ""))


def sides(frame, split):
    return pd.crosstab(frame["label"], split).reindex(columns=["train", "val", "test"], fill_value=0)


def test_without_more_said_a_tenth_of_each_class_is_test_and_the_folds_take_turns(frame):
    split, fold = splits.assign_splits(frame, splits.SplitPlan())
    assert (sides(frame, split).to_numpy() == (240, 30, 30)).all()
    assert (split == np.select([fold == 0, fold == 1], ["test", "val"], "train")).all()
    assert set(fold) == set(range(10))
    for tested, val in ((4, 5), (9, 0)):
        turned, same = splits.assign_splits(frame, splits.SplitPlan(fold=tested))
        assert (same == fold).all()
        assert (set(fold[turned == "test"]), set(fold[turned == "val"])) == ({tested}, {val})
    assert (splits.assign_splits(frame, splits.SplitPlan(by="group"))[0] == split).all()


def test_a_held_out_source_or_generator_is_all_of_test_beside_a_tenth_of_the_classes_without_generators(frame):
    split, fold = splits.assign_splits(frame, splits.SplitPlan(by="source", held_out=("ink",)))
    assert ((split == "test") == (frame["source"] == "ink")).all()
    assert (fold == -1).all()
    assert frame.assign(split=split).groupby("group")["split"].nunique().max() == 1
    assert sides(frame, split).loc[["real"]].to_numpy()[0].tolist() == pytest.approx([267, 33, 0], abs=3)
    ink, crayon = (frame.index[frame["source"] == source][0] for source in ("ink", "crayon"))
    frame.loc[frame["group"] == frame["group"][crayon], "group"] = frame["group"][ink]
    split, _ = splits.assign_splits(frame, splits.SplitPlan(by="source", held_out=("ink",)))
    assert (list(split[[ink, crayon]]), (split == "").sum()) == (["test", ""], 2)
    split, _ = splits.assign_splits(frame, splits.SplitPlan(by="generator", held_out=("gan",)))
    made = frame["label"] == "generated"
    assert ((split == "test") == (frame["source"] == "gan"))[made].all()
    assert sides(frame, split).loc[["drawing", "real"]].to_numpy().tolist() == [[240, 30, 30], [240, 30, 30]]
    frame.loc[frame["source"] == "mixed", "generator"] = ""
    split, _ = splits.assign_splits(frame, splits.SplitPlan(by="generator", held_out=("gan",)))
    assert "test" not in set(split[frame["source"] == "mixed"])


def test_units_are_held_out_together_and_divided_into_parts_with_equally_many_of_each_class(frame):
    plan = splits.SplitPlan(by="source", units={"repository": ["ink", "gan"]})
    for named in ("repository", "ink"):
        split, _ = splits.assign_splits(frame, replace(plan, held_out=(named,)))
        assert set(frame["source"][split == "test"]) == {"ink", "gan"}
    drawn = [splits.assign_splits(frame, replace(plan, seed=seed))[0] for seed in range(12)]
    tested = [set(frame["source"][split == "test"]) for split in drawn]
    assert all(("ink" in names) == ("gan" in names) for names in tested)
    assert {"ink" in names for names in tested} == {True, False}
    with pytest.raises(ConfigError, match=r"split.units: no image has the source 'inc'; .*ink"):
        splits.assign_splits(frame, replace(plan, held_out=("ink",), units={"repository": ["inc"]}))
    labels = ["drawing"] * 14 + ["generated"] * 11 + ["real"] * 5
    units = pd.DataFrame({"label": labels, "source": [f"s{k}" for k in range(30)]})
    parts = splits.divide_units(units.loc[units.index.repeat(np.arange(30) + 1)], "source", 5, seed=0)
    assert sorted(name for names in parts for name in names) == sorted(units["source"])
    counts = pd.DataFrame([units[units["source"].isin(names)]["label"].value_counts() for names in parts]).fillna(0)
    assert (counts.max() - counts.min() <= 1).all()
    assert parts == splits.divide_units(units, "source", 5, seed=0) != splits.divide_units(units, "source", 5, seed=1)


@pytest.mark.parametrize("seed", range(4))
def test_sources_are_drawn_whole_and_a_class_of_one_source_keeps_it(frame, seed):
    split, _ = splits.assign_splits(frame, splits.SplitPlan(by="source", seed=seed))
    tested = set(frame["source"][split == "test"])
    assert len(tested & set(SOURCES["drawing"])) == len(tested & set(SOURCES["generated"])) == 1
    assert "studio" not in tested
    assert not tested & set(frame["source"][split != "test"])
    said = splits.describe_imbalance(frame.assign(split=split))
    assert "test lacks class real, because all of it is of one source (studio)" in said


def test_unknown_names_and_what_cannot_be_held_out_are_refused(frame):
    for by in ["source", "generator"]:
        with pytest.raises(ConfigError, match="'gam'; did you mean gan") as caught:
            splits.assign_splits(frame, splits.SplitPlan(by=by, held_out=("gam",)))
        assert caught.value.lines[1] == f"There are: {', '.join(sorted(set(frame[by]) - {''}))}."
    for plan, message in (
        (splits.SplitPlan(by="generator"), "no image names its generator"),
        (splits.SplitPlan(held_out=("ink",)), r"requires split\.by"),
        (splits.SplitPlan(by="source", fold=2), "the test set is fixed"),
    ):
        with pytest.raises(ConfigError, match=message):
            splits.assign_splits(frame.assign(generator=""), plan)


@pytest.mark.parametrize("by", [None, "source", "generator"])
def test_what_had_a_side_keeps_it_and_newcomers_fill_what_is_behind(frame, by):
    plan = splits.SplitPlan(by=by)
    split, fold = splits.assign_splits(frame, plan)
    earlier = dict(zip(frame["group"], zip(split.astype(str), fold.tolist(), strict=True), strict=True))
    new = frame[frame["label"] == "real"].assign(group=lambda rows: "new" + rows["group"])
    both = pd.concat([frame.iloc[60:], new], ignore_index=True)  # some images are gone, too
    later, folds = splits.assign_splits(both, plan, earlier)
    assert (later[:840] == split[60:]).all()
    assert (folds[:840] == fold[60:]).all()
    wanted = (480, 60, 60) if by != "source" else (540, 60, 0)
    assert sides(both, later).loc[["real"]].to_numpy()[0].tolist() == pytest.approx(wanted, abs=8)


def test_a_new_image_of_a_tested_source_is_tested_and_one_near_to_training_is_left_out(frame):
    plan = splits.SplitPlan(by="source", held_out=("ink",))
    split, fold = splits.assign_splits(frame, plan)
    earlier = dict(zip(frame["group"], zip(split.astype(str), fold.tolist(), strict=True), strict=True))
    crayon = frame[frame["source"] == "crayon"].iloc[0]
    common = {"label": "drawing", "source": "ink", "split": "", "generator": ""}
    new = pd.DataFrame({"group": ["fresh", crayon["group"]], **common})
    for again in (plan, splits.SplitPlan(by="source")):
        later, _ = splits.assign_splits(pd.concat([frame, new], ignore_index=True), again, earlier)
        assert (later[:900] == split).all()
        assert later[900:].tolist() == ["test", ""]


def test_rows_that_state_their_side_keep_it_and_the_folds_do_not_take_turns(frame):
    frame.loc[frame["source"] == "ink", "split"] = "test"
    frame.loc[frame["source"] == "gan", "split"] = "calibration"
    frame.loc[frame["source"] == "vector", "split"] = "train"
    split, fold = splits.assign_splits(frame, splits.SplitPlan())
    for source, side in {"ink": "test", "gan": "val", "vector": "train"}.items():
        assert set(split[frame["source"] == source]) == {side}
    assert (fold == -1).all()
    assert sides(frame, split).loc[["real"]].to_numpy()[0].tolist() == [240, 30, 30]
    frame.loc[0, "split"] = "train"
    with pytest.raises(GuardError, match="split the images again"):
        splits.assign_splits(frame, splits.SplitPlan())


def test_imbalance_of_more_than_two_points_and_sources_of_one_group_are_said(frame):
    assert splits.describe_imbalance(frame.assign(split=splits.assign_splits(frame, splits.SplitPlan())[0])) == []
    fifths = splits.SplitPlan(folds=5)
    assert splits.describe_imbalance(frame.assign(split=splits.assign_splits(frame, fifths)[0]), folds=5) == []
    split = np.array(["train"] * 80 + ["val"] * 10 + ["test"] * 10)
    rows = pd.DataFrame({"label": "a", "source": "s", "group": [f"{k // 2}" for k in range(100)], "split": split})
    assert splits.describe_imbalance(rows) == []
    rows["split"] = ["train"] * 78 + ["val"] * 12 + ["test"] * 10  # 2 points, not more
    assert splits.describe_imbalance(rows) == []
    rows["split"] = ["train"] * 77 + ["val"] * 6 + ["calibration"] * 7 + ["test"] * 10
    said = "class a is 77/13/10 instead of 80/10/10 % in train/val/test (100 images, largest group 2)"
    assert splits.describe_imbalance(rows) == [said]
    rows = pd.DataFrame({"label": "a", "source": ["s"] * 90 + ["twins"] * 10})
    rows["group"] = [str(k) for k in range(90)] + ["one"] * 10
    rows["split"] = ["train"] * 80 + ["val"] * 10 + ["test"] * 10
    assert splits.describe_imbalance(rows) == ["on one side only because each is a single group: twins (10)"]


@pytest.mark.shared
@pytest.mark.skipif(not AVATARS.is_file(), reason="../shared/data is not here")
def test_the_avatars_without_tabler_hold_no_image_of_it_and_every_fold_has_a_tenth_of_each_class():
    frame = pd.read_csv(AVATARS).fillna("").assign(split="", generator="")
    split, _ = splits.assign_splits(frame, splits.SplitPlan(by="source", held_out=("tabler",)))
    assert set(split[frame["source"] == "tabler"]) == {"test"}
    assert (split == "test").sum() == (frame["source"] == "tabler").sum() == 201
    assert splits.describe_imbalance(frame.assign(split=splits.assign_splits(frame, splits.SplitPlan())[0])) == []
    for seed in range(3):
        frame = pd.read_csv(AVATARS).fillna("")
        counts = spread(frame["label"], splits.assign_folds(frame, 10, seed))
        assert np.abs(counts / counts.sum(axis=1, keepdims=True) - 0.1).max() < 0.01


def rows(*sources):
    """Return rows of (label, source, number of groups, size of a group)."""
    named = [(label, source, f"{source}:{k // size}") for label, source, n, size in sources for k in range(n * size)]
    return pd.DataFrame(named, columns=["label", "source", "group"])


def spread(values, folds, n=10):
    """Return, for each value, its counts by fold, (values, n)."""
    return np.array([np.bincount(folds[values == value], minlength=n) for value in sorted(values.unique())])


@pytest.mark.parametrize("seed", range(5))
def test_fold_sizes_differ_by_the_size_of_a_group_at_most_and_small_groups_make_up_for_large_ones(seed):
    frame = rows(("a", "p", 60, 3), ("a", "q", 41, 1), ("a", "r", 7, 2), ("b", "s", 30, 5), ("b", "t", 99, 1))
    folds = splits.assign_folds(frame, 10, seed)
    assert frame.assign(fold=folds).groupby("group")["fold"].nunique().max() == 1
    for column in ("label", "source"):
        counts = spread(frame[column], folds)
        assert (counts.max(axis=1) - counts.min(axis=1) <= 5).all()
    frame = rows(("a", "crowd", 3, 12), ("a", "alone", 100, 1))
    counts = spread(frame["label"], splits.assign_folds(frame, 10, seed))[0]
    assert np.abs(counts / len(frame) - 0.1).max() < 0.02


def test_a_group_stays_in_the_folds_it_may_be_in_and_the_others_fill_what_is_behind():
    frame = rows(("a", "p", 100, 1))
    kept = {f"p:{group}": (group % 5,) for group in range(50)}
    folds = splits.assign_folds(frame, 10, 0, kept)
    assert (folds[:50].tolist(), np.bincount(folds).tolist()) == ([group % 5 for group in range(50)], [10] * 10)
    barred = np.bincount(splits.assign_folds(frame, 10, 0, dict.fromkeys(frame["group"], range(1, 10))), minlength=10)
    assert (barred[0], set(barred[1:])) == (0, {11, 12})
    assert len(set(splits.assign_folds(rows(("a", "p", 1, 9)), 10, 0))) == 1


def draw_units(frame, seed=0):
    return splits.draw_held_out_units(frame["source"], frame["label"], 0.1, seed)


def test_units_are_drawn_until_each_class_has_about_its_share_and_never_all_of_a_class():
    frame = rows(*((label, f"{label}{k}", 10 + k, 1) for label in "abc" for k in range(12)))
    for seed in range(10):
        share = frame["source"].isin(draw_units(frame, seed)).groupby(frame["label"]).mean()
        assert share.between(0.05, 0.15).all()
    assert len({draw_units(frame, seed) for seed in range(10)}) > 5
    assert draw_units(frame, 3) == draw_units(frame, 3)
    large = rows(("a", "large", 60, 1), ("a", "larger", 70, 1), ("b", "small", 50, 1), ("b", "big", 80, 1))
    assert draw_units(large) == ("large", "small")
    assert draw_units(rows(("a", "only", 30, 1), ("b", "", 25, 1), ("b", "one", 5, 1))) == ("one",)
    assert draw_units(rows(("a", "one", 5, 1), ("a", "", 1, 1))) == ("one",)
    assert "both" not in draw_units(rows(("a", "both", 10, 1), ("b", "both", 10, 1), ("a", "other", 80, 1)))


def count_frame(**counts):
    """Return the given number of rows of each label__source."""
    rows = [name.partition("__")[::2] for name, count in counts.items() for _ in range(count)]
    return pd.DataFrame(rows, columns=["label", "source"])


def test_sources_of_enough_images_are_held_out_in_order_but_the_only_one_of_a_class():
    table = count_frame(real__b=20, real__a=25, real__c=19, drawing__d=40, drawing__e=20)
    assert splits.find_hold_out_units(table, "source", 20) == (["a", "b", "d", "e"], {"c": "19 images"})
    table = count_frame(real__a=30, real__b=30, drawing__d=40)
    assert splits.find_hold_out_units(table, "source", 20) == (["a", "b"], {"d": "all of class drawing"})
    table = count_frame(real__a=30, real__b=30, drawing__d=40, drawing__=1)
    assert splits.find_hold_out_units(table, "source", 20) == (["a", "b", "d"], {})
    table = count_frame(real__a=12, drawing__a=12, real__b=5, drawing__b=30)
    assert splits.find_hold_out_units(table, "source", 20) == (["a", "b"], {})
    for table, message in [(count_frame(real__a=3), "a (all of class real)"), (count_frame(real__=9), "no image")]:
        with pytest.raises(DataError) as caught:
            splits.find_hold_out_units(table, "source", 4)
        assert message in caught.value.lines[0]
        assert "data.split.at_least" in caught.value.lines[1]
