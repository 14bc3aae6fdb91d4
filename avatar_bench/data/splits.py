"""Splits: train, val, calibration and test by group, stratified by class and source, seeded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.data.manifest import Dataset
from avatar_bench.errors import ConfigError, GuardError


@dataclass(frozen=True)
class SplitPlan:
    """Say how a dataset is divided: fold `fold` of `folds` is test, the next one val, the rest train.

    `seed` fixes the folds, and the draws of `limit`, `fraction` and `val_fraction`; `draw_seed` the few-shot
    draw of `shots` images a class (`val_shots` for val), so that several draws share one test set.
    """

    seed: int = 0
    folds: int = 10
    fold: int = 0
    fraction: float = 1.0
    val_fraction: float = 1.0
    limit: int | None = None
    shots: int | None = None
    val_shots: int | None = None
    draw_seed: int = 0


def split_dataset(dataset: Dataset, plan: SplitPlan) -> Dataset:
    """Give the images that the plan uses, each with its split; a `split` that the dataset states is kept.

    Val is halved by group: `val` chooses the checkpoint, `calibration` fits what is fitted after training.
    Raises GuardError where a class has no image in train, or a group stands on two sides.
    """
    if plan.limit is not None:
        dataset = dataset.take(stratified_rows(dataset.frame, plan.limit, plan.seed))
    frame = dataset.frame.assign(split=_assign(dataset.frame, plan))
    keep = np.ones(len(frame), dtype=bool)
    for split, fraction, shots in (
        ("train", plan.fraction, plan.shots),
        ("val", plan.val_fraction, plan.val_shots),
    ):
        rows = np.flatnonzero(frame["split"] == split)
        kept = rows
        if fraction < 1:
            kept = kept[_share_of(frame.iloc[kept], fraction, plan.seed)]
        if shots is not None:
            kept = kept[draw_shots(frame["label"].iloc[kept], shots, plan.draw_seed)]
        keep[np.setdiff1d(rows, kept)] = False
    used = Dataset(dataset.name, dataset.root, frame[keep].reset_index(drop=True))
    _guard(dataset, used)
    return used


def split_fingerprint(dataset: Dataset) -> str:
    """Give 16 hex digits that change when any image changes sides, and not with the order of rows."""
    rows = sorted(zip(dataset.frame["sha256"], dataset.frame["label"], dataset.frame["split"], strict=True))
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]


def group_folds(frame: pd.DataFrame, folds: int, seed: int) -> NDArray[np.int64]:
    """Give each row a fold, 0 to folds - 1, of nearly equal size within each class and source.

    A group is never divided. Within a class, sources come one after the other and large groups first; each
    group goes to the fold that is furthest behind in its source, then in its class.
    """
    rng = np.random.default_rng(seed)
    groups = _group_table(frame)
    groups["order"] = rng.permutation(len(groups))
    groups = groups.sort_values(["label", "source", "size", "order"], ascending=[True, True, False, True])
    tie = rng.permutation(folds)  # so that small sources do not all begin with fold 0
    fold_of: dict[str, int] = {}
    for _, of_class in groups.groupby("label", sort=True):
        in_class = np.zeros(folds, dtype=np.int64)
        for _, of_source in of_class.groupby("source", sort=True):
            in_source = np.zeros(folds, dtype=np.int64)
            for group, size in zip(of_source.index, of_source["size"], strict=True):
                fold = int(np.lexsort((tie, in_class, in_source))[0])
                in_source[fold] += size
                in_class[fold] += size
                fold_of[str(group)] = fold
    return np.array([fold_of[group] for group in frame["group"]], dtype=np.int64)


def stratified_rows(frame: pd.DataFrame, n: int, seed: int) -> NDArray[np.int64]:
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


def _share_of(frame: pd.DataFrame, fraction: float, seed: int) -> NDArray[np.int64]:
    """Draw a fraction of the rows, with at least as many as there are classes."""
    return stratified_rows(frame, max(frame["label"].nunique(), round(fraction * len(frame))), seed)


def _group_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Give one row a group: its most frequent class and source, and its size."""
    counted = frame.groupby(["group", "label", "source"], sort=True).size().reset_index(name="count")
    main = counted.sort_values(["group", "count"], ascending=[True, False], kind="stable").drop_duplicates("group")
    return main.set_index("group").assign(size=frame.groupby("group").size())


def _assign(frame: pd.DataFrame, plan: SplitPlan) -> NDArray[np.str_]:
    stated = frame["split"].to_numpy(dtype=object)
    if (stated == "").all():
        if not 0 <= plan.fold < plan.folds or plan.folds < 3:
            raise ConfigError(
                f"data.fold={plan.fold} with data.split.folds={plan.folds} cannot be done.",
                "Expected at least 3 folds, and a fold from 0 to folds - 1.",
            )
        fold = group_folds(frame, plan.folds, plan.seed)
        split = np.full(len(frame), "train", dtype=object)
        split[fold == plan.fold] = "test"
        split[fold == (plan.fold + 1) % plan.folds] = "val"
    elif (stated == "").any():
        row = int(np.flatnonzero(stated == "")[0])
        raise GuardError(
            f"The dataset states a split for some images, and none for {frame['path'].iat[row]}.",
            "State it for all, or for none (then it is split by group).",
        )
    else:
        split = stated.copy()
        if "val" not in split:
            train = np.flatnonzero(split == "train")
            fold = group_folds(frame.iloc[train], plan.folds, plan.seed)
            split[train[fold == plan.fold % plan.folds]] = "val"
    if "calibration" not in split:
        val = np.flatnonzero(split == "val")
        half = group_folds(frame.iloc[val], 2, plan.seed)
        if not half.all():  # where one half takes all, it chooses the checkpoint
            split[val[half == 1]] = "calibration"
    return split


def _guard(whole: Dataset, used: Dataset) -> None:
    train = used.frame["split"] == "train"
    empty = sorted(set(whole.classes) - set(used.frame.loc[train, "label"]))
    if empty:
        raise GuardError(
            f"Class {empty[0]!r} has no image in train ({len(whole)} images, {used.name}).",
            "Add pictures of it, or take a larger data.limit or data.fraction.",
        )
    if not (used.frame["split"] == "val").any():
        raise GuardError(
            f"No image is left to choose the checkpoint by: val is empty ({len(whole)} images, {used.name}).",
            "Add pictures, take fewer data.split.folds or a larger data.limit, or state val in the split column.",
        )
    sides = used.frame["split"].replace("calibration", "val").groupby(used.frame["group"]).nunique()
    if (sides > 1).any():
        group = str(sides.index[sides > 1][0])
        raise GuardError(
            f"Group {group!r} stands on two sides of the split that the dataset states.",
            "Images of one group must stay on one side: mend the split column, or leave it out.",
        )
