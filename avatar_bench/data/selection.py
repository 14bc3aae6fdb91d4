"""The images that a training uses, each with its side: as the data set states, else as the plan assigns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.console.terminal import format_count
from avatar_bench.data.dataset import DATASET_SPLITS, Dataset
from avatar_bench.data.splits import (
    DEFAULT_FOLDS,
    HOLD_OUT_UNITS,
    SplitPlan,
    assign_folds,
    assign_splits,
    check_groups,
    describe_imbalance,
)
from avatar_bench.errors import ConfigError, GuardError

MIN_CALIBRATION_IMAGES = 20  # images below which what is fitted on them would be noise


def split_dataset(dataset: Dataset, plan: SplitPlan, notes: list[str] | None = None) -> Dataset:
    """Give the images that the plan uses, each with its split; a `split` or `fold` that the dataset states is kept.

    Val is halved by group: `val` chooses the checkpoint, `calibration` fits what is fitted after training. What could
    not be had is told to `notes`. Raises GuardError where a class has no image in train, or a group stands on two
    sides; ConfigError where the dataset's own split leaves an option without effect.
    """
    notes = [] if notes is None else notes
    own = _count_own_folds(dataset.frame)
    if plan.limit is not None:
        dataset = dataset.take(draw_stratified_rows(dataset.frame, plan.limit, plan.seed))
    frame = dataset.frame.assign(split=_assign_sides(dataset.frame, plan, own, notes))
    keep = (frame["split"] != "").to_numpy(copy=True)
    for split, fraction, shots in (
        ("train", plan.fraction, plan.shots),
        ("val", plan.val_fraction, plan.val_shots),
    ):
        rows = np.flatnonzero(frame["split"] == split)
        kept = rows
        if fraction < 1:
            kept = kept[_draw_fraction(frame.iloc[kept], fraction, plan.seed)]
        if shots is not None:
            kept = kept[draw_shots(frame["label"].iloc[kept], shots, plan.draw_seed)]
        keep[np.setdiff1d(rows, kept)] = False
    used = Dataset(dataset.name, dataset.root, frame[keep].reset_index(drop=True))
    _check_parts(dataset, used)
    return used


def suggest_calibration_options(images: Dataset, plan: SplitPlan) -> str:
    """Return the options of train that hold out enough of these images for calibration, or what else would help.

    They are tried on the images themselves: the fewest folds more that give FEW_CALIBRATION of them, of every class.
    """
    by = plan.by if plan.by in HOLD_OUT_UNITS else "group"
    for folds in range(plan.folds - 1, 2, -1):
        try:
            part = split_dataset(images, replace(plan, by=by, folds=folds, fold=0, limit=None)).select_split(
                "calibration"
            )
        except (ConfigError, GuardError):
            continue
        if len(part) >= MIN_CALIBRATION_IMAGES and set(part.classes) == set(images.classes):
            return f"train with data.split.by={by} data.split.folds={folds}"
    return "train on more images" + " (a larger data.limit)" * (plan.limit is not None)


def has_own_split(frame: pd.DataFrame, plan: SplitPlan) -> bool:
    """Say whether the sides are those that the data set states, and not for the plan to assign."""
    return plan.by is None and (_count_own_folds(frame) is not None or bool((frame["split"] != "").any()))


def mark_divided_rows(plan: SplitPlan, frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Say which images, (N,), a plan divides: those with a label, or a side that the data set states.

    Others can neither judge nor choose anything. Where none has a label, sources or generators are held out still.
    """
    labelled = (frame["label"] != "").to_numpy()
    if plan.by is None:
        return labelled | (frame["split"] != "").to_numpy() | (frame["fold"] != "").to_numpy()
    return labelled if labelled.any() or plan.by not in HOLD_OUT_UNITS else np.ones(len(frame), bool)


def limit_rows(divided: NDArray[np.bool_], frame: pd.DataFrame, plan: SplitPlan) -> tuple[NDArray[np.int64], int]:
    """Give the rows within the plan's limit, those that it divides first, and how many these are.

    They are drawn as if nothing else were there; others fill up what the limit leaves.
    """
    first, others = np.flatnonzero(divided), np.flatnonzero(~divided)
    limit = len(frame) if plan.limit is None else plan.limit
    first = first[draw_stratified_rows(frame.iloc[first], limit, plan.seed)]
    others = others[draw_stratified_rows(frame.iloc[others], limit - len(first), plan.seed)]
    return np.concatenate([first, others]), len(first)


def add_unlabelled_images(
    used: Dataset, groups: Sequence[str] | NDArray[np.str_], others: pd.DataFrame, plan: SplitPlan, notes: list[str]
) -> Dataset:
    """Add images that a plan does not divide: to test or val where one of their group is there, else to train.

    `groups` are those of the used images, (N,), in the sense of the others' own. Where one of the others in a group
    is of a held-out source or generator, the group is of test. The plan's images of their groups that stand on
    another side are left out, and it is said how many. The plan's fraction of train is drawn.
    """
    place = used.frame["split"].map(DATASET_SPLITS.index).astype(int)
    joined = pd.Series(groups, place.index, dtype=object)
    last = place.groupby(joined).max().reindex(others["group"].unique(), fill_value=0)
    if plan.by in HOLD_OUT_UNITS:
        held = others[plan.by].isin(set(used.select_split("test").frame[plan.by]) - {""})
        last[others["group"][held].unique()] = DATASET_SPLITS.index("test")
    sides = last.map(lambda place: DATASET_SPLITS[int(place)])
    split = others["group"].map(sides)
    wanted = joined.map(sides).fillna(used.frame["split"]).replace("calibration", "val")
    apart = (used.frame["split"].replace("calibration", "val") != wanted).to_numpy()
    if apart.any():
        told = "left out, as images without a label join them to images of another side"
        notes.append(f"{told}: {format_count(int(apart.sum()), 'image')}")
    keep = (split != "train").to_numpy(copy=True)
    train = np.flatnonzero(~keep)
    keep[train[draw_stratified_rows(others.iloc[train], round(plan.fraction * len(train)), plan.seed)]] = True
    frame = pd.concat([used.frame[~apart], others.assign(split=split)[keep]], ignore_index=True)
    return Dataset(used.name, used.root, frame)


def draw_stratified_rows(frame: pd.DataFrame, n: int, seed: int) -> NDArray[np.int64]:
    """Draw n row positions, sorted, in the classes' own proportions (largest remainder); all where n is more."""
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


def _count_own_folds(frame: pd.DataFrame) -> int | None:
    """Give the number of folds that a dataset states, None where it states none."""
    if "fold" not in frame or (frame["fold"] == "").any():
        return None
    return int(frame["fold"].astype(int).max()) + 1


def _assign_sides(frame: pd.DataFrame, plan: SplitPlan, own: int | None, notes: list[str]) -> NDArray[np.str_]:
    if not has_own_split(frame, plan):
        split, _ = assign_splits(frame.assign(split=""), plan, option="data.split")
        if lost := int((split == "").sum()):
            notes.append(
                f"left out, as their groups hold images of a held-out {plan.by} too: {format_count(lost, 'image')}"
            )
        notes += describe_imbalance(frame.assign(split=split)[split != ""], plan.folds)
    else:
        split = _read_own_split(frame, plan, own)
        if plan.seed:
            notes.append("the data set states its split: data.split.seed is of no effect on test (data.split.by is)")
    if "calibration" not in split:
        val = np.flatnonzero(split == "val")
        half = assign_folds(frame.iloc[val], 2, plan.seed)
        if not half.all():  # where one half takes all, it chooses the checkpoint
            split[val[half == 1]] = "calibration"
    return split


def _read_own_split(frame: pd.DataFrame, plan: SplitPlan, own: int | None) -> NDArray[np.str_]:
    """Give the sides that a dataset states, or those of its fold `plan.fold`."""
    split = frame["split"].to_numpy(dtype=object, copy=True)
    if plan.held_out:
        raise ConfigError("data.split.held_out needs data.split.by=source or generator.")
    if own is not None and (plan.fold or (split == "").all()):
        return _take_fold(frame, plan, own)
    if (split == "").any():
        row = int(np.flatnonzero(split == "")[0])
        raise GuardError(
            f"The dataset states a split for some images, and none for {frame['path'].iat[row]}.",
            "State it for all, or for none (then it is split by group).",
        )
    if plan.fold or plan.folds not in (DEFAULT_FOLDS, own):
        option = f"data.fold={plan.fold}" if plan.fold else f"data.split.folds={plan.folds}"
        raise ConfigError(
            f"{option} is of no effect: the dataset states its split" + (", and no folds." if own is None else "."),
            "Leave it out, or split the images anew with data.split.by=group",
        )
    if "val" not in split:
        train = np.flatnonzero(split == "train")
        fold = assign_folds(frame.iloc[train], plan.folds, plan.seed)
        split[train[fold == 0]] = "val"
    return split


def _take_fold(frame: pd.DataFrame, plan: SplitPlan, own: int) -> NDArray[np.str_]:
    if plan.fold >= own or own < 3 or plan.folds not in (DEFAULT_FOLDS, own):
        raise ConfigError(
            f"data.fold={plan.fold}, data.split.folds={plan.folds}: the dataset states {own} folds, 0 to {own - 1}.",
            "Expected one of them, of 3 or more, or data.split.by=group to split the images anew.",
        )
    fold = frame["fold"].astype(int).to_numpy()
    split = np.full(len(frame), "train", dtype=object)
    split[fold == plan.fold] = "test"
    split[fold == (plan.fold + 1) % own] = "val"
    return split


def _draw_fraction(frame: pd.DataFrame, fraction: float, seed: int) -> NDArray[np.int64]:
    """Draw a fraction of the rows, with at least as many as there are classes."""
    return draw_stratified_rows(frame, max(frame["label"].nunique(), round(fraction * len(frame))), seed)


def _check_parts(whole: Dataset, used: Dataset) -> None:
    train = used.frame["split"] == "train"
    empty = sorted(set(whole.classes) - set(used.frame.loc[train, "label"]))
    if empty:
        raise GuardError(
            f"Class {empty[0]!r} has no image in train ({format_count(len(whole), 'image')}, {used.name}).",
            "Add images of it, or take a larger data.limit or data.fraction.",
        )
    if not (used.frame["split"] == "val").any():
        raise GuardError(
            "No image is left to choose the checkpoint by: "
            f"val is empty ({format_count(len(whole), 'image')}, {used.name}).",
            "Add images, take fewer data.split.folds or a larger data.limit, or state val in the split column.",
        )
    check_groups(used.frame)
