"""Selection of the images for a training, each with its split: as stated by the dataset, else as planned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.console.terminal import format_count
from avatar_bench.data import splits
from avatar_bench.data.dataset import DATASET_SPLITS, Dataset
from avatar_bench.data.dates import AFTER, place_by_date
from avatar_bench.data.splits import BY_DATE, DEFAULT_FOLDS, HOLD_OUT_UNITS, SplitPlan, assign_folds, name_units
from avatar_bench.errors import ConfigError, GuardError

MIN_CALIBRATION_IMAGES = 20  # fitting on fewer images would fit noise
MIN_SELECTION_IMAGES = 20  # with 3 to 18, the last epoch was more accurate than the chosen one; with 28, as accurate


def split_dataset(dataset: Dataset, plan: SplitPlan, notes: list[str] | None = None) -> Dataset:
    """Return the images that the plan uses, each with its split; a `split` or `fold` of the dataset is kept.

    Val is halved by group into val and calibration, of MIN_CALIBRATION_IMAGES or more. Requests that could not be met
    are appended to `notes`. Raise GuardError if a class has no training image or a group is on two sides, ConfigError
    if the dataset's own split leaves an option without effect.
    """
    notes = [] if notes is None else notes
    own_folds = _count_own_folds(dataset.frame)
    if plan.limit is not None:
        dataset = dataset.take(draw_stratified_rows(dataset.frame, plan.limit, plan.seed))
    if plan.by == BY_DATE:
        dataset = dataset.take(splits.mark_dated_rows(dataset.frame, str(plan.until), notes))
    frame = dataset.frame.assign(split=_assign_sides(dataset.frame, plan, own_folds, notes))
    keep = (frame["split"] != "").to_numpy(copy=True)
    if plan.train_sources is not None:
        keep &= mark_drawn_sources(frame, plan, notes)
    for split, fraction, shots in (("train", plan.fraction, plan.shots), ("val", plan.val_fraction, plan.val_shots)):
        rows = np.flatnonzero(keep & (frame["split"] == split))
        drawn = rows
        if fraction < 1:
            some = frame.iloc[drawn]
            n = max(some["label"].nunique(), round(fraction * len(some)))  # at least one for each class
            drawn = drawn[draw_stratified_rows(some, n, plan.seed)]
        if shots is not None:
            drawn = drawn[draw_shots(frame["label"].iloc[drawn], shots, plan.draw_seed)]
        keep[np.setdiff1d(rows, drawn)] = False
    used = Dataset(dataset.name, dataset.root, frame[keep].reset_index(drop=True))
    _check_parts(dataset, used)
    return used


def suggest_calibration_options(images: Dataset, plan: SplitPlan) -> str:
    """Return train options with the most folds that hold out enough images for calibration, or other advice."""
    by = plan.by if plan.by in HOLD_OUT_UNITS else "group"
    for folds in range(plan.folds - 1, 2, -1):
        try:
            used = split_dataset(images, replace(plan, by=by, folds=folds, fold=0, limit=None))
        except (ConfigError, GuardError):
            continue
        sides = {split: used.select_split(split) for split in DATASET_SPLITS}
        is_enough = len(sides["calibration"]) >= MIN_CALIBRATION_IMAGES
        if is_enough and all(side.classes == images.classes for side in sides.values()):
            return f"train with data.split.by={by} data.split.folds={folds}"
    return "train on more images" + " (a larger data.limit)" * (plan.limit is not None)


def has_own_split(frame: pd.DataFrame, plan: SplitPlan) -> bool:
    """Return whether the dataset's own split is used instead of one assigned by the plan."""
    return plan.by is None and (_count_own_folds(frame) is not None or bool((frame["split"] != "").any()))


def mark_divided_rows(plan: SplitPlan, frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Return which images, (N,), the plan divides: with a label or a stated side, or all if none has a label."""
    labelled = (frame["label"] != "").to_numpy()
    if plan.by is None:
        return labelled | (frame["split"] != "").to_numpy() | (frame["fold"] != "").to_numpy()
    return labelled if labelled.any() or plan.by not in splits.HOLDING_OUT else np.ones(len(frame), bool)


def limit_rows(divided: NDArray[np.bool_], frame: pd.DataFrame, plan: SplitPlan) -> tuple[NDArray[np.int64], int]:
    """Return the rows within the plan's limit, and how many are divided: these come first, others fill it up."""
    first, others = np.flatnonzero(divided), np.flatnonzero(~divided)
    limit = len(frame) if plan.limit is None else plan.limit
    first = first[draw_stratified_rows(frame.iloc[first], limit, plan.seed)]
    others = others[draw_stratified_rows(frame.iloc[others], limit - len(first), plan.seed)]
    return np.concatenate([first, others]), len(first)


def add_unlabelled_images(
    used: Dataset, groups: Sequence[str] | NDArray[np.str_], others: pd.DataFrame, plan: SplitPlan, notes: list[str]
) -> Dataset:
    """Add images that a plan does not divide: to test or val if one of their group is there, else to train.

    `groups` are the groups of the used images, (N,), in the same terms as `others["group"]`. If one of the others in a
    group is of a held-out source or generator, the whole group goes to test. Used images of such a group on another
    side are dropped, and their number is noted. By date, so are later images, and those of unknown date are left out.
    The plan's fraction applies to the added training images.
    """
    position = used.frame["split"].map(DATASET_SPLITS.index).astype(int)
    if plan.by == BY_DATE:
        places = place_by_date(others["date"], others["released"], str(plan.until))
        others, places = others[places != ""], places[places != ""]
    joined = pd.Series(groups, position.index, dtype=object)
    last = position.groupby(joined).max().reindex(others["group"].unique(), fill_value=0)
    if plan.by in HOLD_OUT_UNITS:
        tested = name_units(used.select_split("test").frame[plan.by], plan.units)
        is_held_out = name_units(others[plan.by], plan.units).isin(set(tested) - {""})
        last[others["group"][is_held_out].unique()] = DATASET_SPLITS.index("test")
    elif plan.by == BY_DATE:
        last[others["group"][places == AFTER].unique()] = DATASET_SPLITS.index("test")
    sides = last.map(lambda position: DATASET_SPLITS[int(position)])
    split = others["group"].map(sides)
    target = joined.map(sides).fillna(used.frame["split"]).replace("calibration", "val")
    is_dropped = (used.frame["split"].replace("calibration", "val") != target).to_numpy()
    if is_dropped.any():
        reason = "left out because unlabelled images join them to images of another side"
        notes.append(f"{reason}: {format_count(int(is_dropped.sum()), 'image')}")
    keep = (split != "train").to_numpy(copy=True)
    train = np.flatnonzero(~keep)
    keep[train[draw_stratified_rows(others.iloc[train], round(plan.fraction * len(train)), plan.seed)]] = True
    frame = pd.concat([used.frame[~is_dropped], others.assign(split=split)[keep]], ignore_index=True)
    return Dataset(used.name, used.root, frame)


def draw_stratified_rows(frame: pd.DataFrame, n: int, seed: int) -> NDArray[np.int64]:
    """Draw n sorted row positions in proportion to the classes (largest remainder); all rows if n is larger."""
    if n >= len(frame):
        return np.arange(len(frame))
    rng = np.random.default_rng(seed)
    labels = frame["label"].to_numpy()
    names, counts = np.unique(labels, return_counts=True)
    exact = counts * n / len(frame)
    take = np.floor(exact).astype(int)
    take[np.argsort(take - exact, kind="stable")[: n - take.sum()]] += 1
    drawn = [rng.permutation(np.flatnonzero(labels == name))[:k] for name, k in zip(names, take, strict=True)]
    return np.asarray(np.sort(np.concatenate(drawn)), dtype=np.int64)


def draw_shots(labels: Sequence[str] | pd.Series, shots: int, seed: int) -> NDArray[np.int64]:
    """Draw up to `shots` row positions of each class, sorted."""
    rng = np.random.default_rng(seed)
    names = np.asarray(labels)
    drawn = [rng.permutation(np.flatnonzero(names == name))[:shots] for name in np.unique(names)]
    return np.sort(np.concatenate(drawn)) if drawn else np.zeros(0, dtype=np.int64)


def mark_drawn_sources(frame: pd.DataFrame, plan: SplitPlan, notes: list[str]) -> NDArray[np.bool_]:
    """Return which images, (N,), remain of `plan.train_sources` sources per class, drawn nested for a seed."""
    units, labels, split = name_units(frame["source"], plan.units), frame["label"], frame["split"]
    limited = ["train"] if plan.val_by == "source" else ["train", "val", "calibration"]
    dropped = split.isin(limited).to_numpy(copy=True)
    rng, wanted = np.random.default_rng(plan.draw_seed), plan.train_sources
    for label in sorted(set(labels)):
        names = sorted(set(units[(split == "train") & (labels == label)]) - {""})
        drawn = rng.permutation(np.array(names, dtype=object))[:wanted]
        dropped &= ~(units.isin(drawn) & (labels == label)).to_numpy()
        if len(names) < (wanted or 0):
            notes.append(f"class {label} has {format_count(len(names), 'source')} to train on, not {wanted}")
    return ~dropped


def _count_own_folds(frame: pd.DataFrame) -> int | None:
    if "fold" not in frame or (frame["fold"] == "").any():
        return None
    return int(frame["fold"].astype(int).max()) + 1


def _assign_sides(frame: pd.DataFrame, plan: SplitPlan, own_folds: int | None, notes: list[str]) -> NDArray[np.str_]:
    is_own = has_own_split(frame, plan)
    if is_own:
        split = _read_own_split(frame, plan, own_folds)
        if plan.seed:
            notes.append("the data set states its split: data.split.seed has no effect on test (data.split.by has)")
    else:
        split, _ = splits.assign_splits(frame.assign(split=""), plan, option="data.split")
        if lost := int((split == "").sum()):
            held_out = "later images" if plan.by == BY_DATE else f"images of a held-out {plan.by}"
            reason = f"left out because their groups also contain {held_out}"
            notes.append(f"{reason}: {format_count(lost, 'image')}")
    if plan.val_by == "source":
        before, split = int((split == "").sum()), splits.hold_out_val_sources(frame.assign(split=split), plan)
        if lost := int((split == "").sum()) - before:
            notes.append(f"left out because their groups also contain images of val's sources: {lost}")
    if not is_own and plan.by != BY_DATE and not plan.held_out:  # which plan no proportions
        notes += splits.describe_imbalance(frame.assign(split=split)[split != ""], plan.folds)
    if "calibration" not in split:
        val = np.flatnonzero(split == "val")
        half = val[assign_folds(frame.iloc[val], 2, plan.seed) == 1]
        if MIN_CALIBRATION_IMAGES <= len(half) < len(val):  # a smaller half would be lost to val, and fit nothing
            split[half] = "calibration"
    return split


def _read_own_split(frame: pd.DataFrame, plan: SplitPlan, own_folds: int | None) -> NDArray[np.str_]:
    """Return the sides that a dataset states, or those of its fold `plan.fold`."""
    split = frame["split"].to_numpy(dtype=object, copy=True)
    if plan.held_out:
        raise ConfigError("data.split.held_out needs data.split.by=source or generator.")
    if own_folds is not None and (plan.fold or (split == "").all()):
        return _take_fold(frame, plan, own_folds)
    if (split == "").any():
        row = int(np.flatnonzero(split == "")[0])
        reason = f"The dataset states a split for some images, but none for {frame['path'].iat[row]}."
        raise GuardError(reason, "State it for all, or for none (then it is split by group).")
    if plan.fold or plan.folds not in (DEFAULT_FOLDS, own_folds):
        option = f"data.fold={plan.fold}" if plan.fold else f"data.split.folds={plan.folds}"
        further = ", and no folds." if own_folds is None else "."
        reason = f"{option} has no effect: the dataset states its split{further}"
        raise ConfigError(reason, "Omit it, or split the images again with data.split.by=group")
    if "val" not in split:
        train = np.flatnonzero(split == "train")
        split[train[assign_folds(frame.iloc[train], plan.folds, plan.seed) == 0]] = "val"
    return split


def _take_fold(frame: pd.DataFrame, plan: SplitPlan, own_folds: int) -> NDArray[np.str_]:
    if plan.fold >= own_folds or own_folds < 3 or plan.folds not in (DEFAULT_FOLDS, own_folds):
        raise ConfigError(
            f"data.fold={plan.fold}, data.split.folds={plan.folds}: "
            f"the dataset states {own_folds} folds, 0 to {own_folds - 1}.",
            "Expected one of at least 3 folds, or data.split.by=group to split the images again.",
        )
    fold = frame["fold"].astype(int).to_numpy()
    split = np.full(len(frame), "train", dtype=object)
    split[fold == plan.fold] = "test"
    split[fold == (plan.fold + 1) % own_folds] = "val"
    return split


def _check_parts(whole: Dataset, used: Dataset) -> None:
    train = used.frame["split"] == "train"
    empty = sorted(set(whole.classes) - set(used.frame.loc[train, "label"]))
    if empty:
        reason = f"Class {empty[0]!r} has no image in train ({format_count(len(whole), 'image')}, {used.name})."
        raise GuardError(reason, "Add images of this class, or increase data.limit or data.fraction.")
    if not (used.frame["split"] == "val").any():
        raise GuardError(
            "No image is left to select the checkpoint: "
            f"val is empty ({format_count(len(whole), 'image')}, {used.name}).",
            "Add images, reduce data.split.folds, increase data.limit, or state val in the split column.",
        )
    splits.check_groups(used.frame)
