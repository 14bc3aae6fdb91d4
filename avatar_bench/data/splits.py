"""Splits: train, val, calibration and test by group, stratified by class and source, seeded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.catalogue import did_you_mean
from avatar_bench.data.folds import draw_units, group_folds
from avatar_bench.data.manifest import Dataset
from avatar_bench.errors import CheckpointError, ConfigError, GuardError
from avatar_bench.terminal import counted

FOLDS = 10
OFF = 0.02  # share of a class by which a side may miss its aim without a word
UNITS = ("source", "generator")  # what can be held out whole


@dataclass(frozen=True)
class SplitPlan:
    """Say how a dataset is divided: fold `fold` of `folds` is test, the next one val, the rest train.

    `by` is "group", "source" or "generator"; None: as the dataset states, else by group. By source or generator, test
    is all pictures of those named in `held_out`, or of some that are drawn. `seed` fixes the folds, and the draws of
    `limit`, `fraction` and `val_fraction`; `draw_seed` the few-shot draw of `shots` images a class (`val_shots` for
    val), so that several draws share one test set.
    """

    seed: int = 0
    folds: int = FOLDS
    fold: int = 0
    by: str | None = None
    held_out: tuple[str, ...] = ()
    fraction: float = 1.0
    val_fraction: float = 1.0
    limit: int | None = None
    shots: int | None = None
    val_shots: int | None = None
    draw_seed: int = 0


def assign(
    frame: pd.DataFrame,
    plan: SplitPlan,
    earlier: Mapping[str, tuple[str, int]] | None = None,
    option: str = "split",
) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """Give each row its split (train, val or test), and its fold, -1 where the folds cannot take turns as test.

    A group in `earlier`, or one whose split `frame` states, keeps its side; the others fill the folds that are
    furthest behind. A row gets "" where it must be left out: its group holds rows of a held-out source or generator,
    and others. Raise ConfigError for a plan that cannot be done, which calls its options by `option`, GuardError for a
    group that is stated on two sides.
    """
    stated = plan.by is None and bool((frame["split"] != "").any())
    fixed = stated or plan.by in UNITS
    _check(frame, plan, fixed, option)
    allowed = _pinned(frame[frame["split"] != ""], plan.folds) if stated else {}
    allowed |= {group: _places(split, plan.folds, fold) for group, (split, fold) in (earlier or {}).items()}
    left_out = np.zeros(len(frame), dtype=bool)
    if plan.by in UNITS:
        held, free = _held_rows(frame, plan, earlier or {})
        left_out = _keep_whole(frame["group"], held, free, allowed, plan.folds)
    fold = group_folds(frame, plan.folds, plan.seed, allowed)
    split = np.full(len(frame), "train", dtype=object)
    split[fold == plan.fold] = "test"
    split[fold == (plan.fold + 1) % plan.folds] = "val"
    split[left_out] = ""
    return split, np.full(len(frame), -1) if fixed else fold


def balance(frame: pd.DataFrame, folds: int = FOLDS) -> list[str]:
    """Say in words where the `split` of rows is not what a plan of so many folds aims at, by class and by source.

    A class is named where a side has none of it, or is more than 2 points off its share.
    """
    split = frame["split"].replace("calibration", "val")
    aims = {"train": 1 - 2 / folds, "val": 1 / folds, "test": 1 / folds}
    shares = pd.crosstab(frame["label"], split, normalize="index").reindex(columns=list(aims), fill_value=0)
    said = [_off(frame[frame["label"] == label], str(label), row, aims) for label, row in shares.iterrows()]
    sources = frame[frame["source"] != ""].groupby("source")
    alone = [f"{name} ({len(rows)})" for name, rows in sources if len(rows) > 1 and rows["group"].nunique() == 1]
    if alone:
        said.append(f"on one side only, as each is one group: {', '.join(alone)}")
    return [words for words in said if words]


def check_groups(frame: pd.DataFrame) -> None:
    """Raise GuardError where the images of one group stand on two sides; calibration is a half of val."""
    sides = frame["split"].replace("calibration", "val").groupby(frame["group"]).nunique()
    if (sides > 1).any():
        group = str(sides.index[sides > 1][0])
        raise GuardError(
            f"Group {group!r} stands on two sides of the split that the dataset states.",
            "Images of one group must stay on one side: mend the split column, or leave it out.",
        )


def split_fingerprint(dataset: Dataset) -> str:
    """Give 16 hex digits that change when any image changes sides, and not with the order of rows."""
    rows = sorted(zip(dataset.frame["sha256"], dataset.frame["label"], dataset.frame["split"], strict=True))
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]


def refuse_other_split(dataset: Dataset, stated: object, file: Path) -> None:
    """Raise CheckpointError where the split that a run has kept is not the one whose fingerprint it states."""
    if stated is not None and stated != split_fingerprint(dataset):
        raise CheckpointError(
            f"{file} is not the split that the run was trained with: it has been changed or damaged.",
            "Restore it: which pictures the network has seen is not known without it.",
        )


def _check(frame: pd.DataFrame, plan: SplitPlan, fixed: bool, option: str) -> None:
    if not 0 <= plan.fold < plan.folds or plan.folds < 3:
        raise ConfigError(
            f"data.fold={plan.fold} with {option}.folds={plan.folds} cannot be done.",
            "Expected at least 3 folds, and a fold from 0 to folds - 1.",
        )
    if plan.fold and fixed:
        raise ConfigError(
            f"data.fold={plan.fold} goes with folds of groups, but here the test set is fixed.",
            f"Leave it out, or take {option}.by=group; {option}.held_out or {option}.seed give another test set.",
        )
    if plan.by in UNITS:
        _check_units(frame, plan.by, plan.held_out, option)
    elif plan.held_out:
        raise ConfigError(f"{option}.held_out names what to keep for test: it needs {option}.by=source or generator.")


def _check_units(frame: pd.DataFrame, by: str, held_out: Sequence[str], option: str) -> None:
    known = sorted(set(frame[by]) - {""})
    if not known:
        raise ConfigError(f"{option}.by={by}: no picture names its {by}.", "Expected it in the manifest.")
    for name in held_out:
        if name not in known:
            nearest = did_you_mean(name, known)
            raise ConfigError(
                f"{option}.held_out: no picture has the {by} {name!r}" + (f"; {nearest}" if nearest else "."),
                f"There are: {', '.join(known)}.",
            )


def _places(split: str, folds: int, fold: int = -1) -> Sequence[int]:
    """Give the folds that a picture of one side may be in."""
    return (fold,) if fold >= 0 else {"test": (0,), "train": range(2, folds)}.get(split, (1,))


def _pinned(stated: pd.DataFrame, folds: int) -> dict[str, Sequence[int]]:
    check_groups(stated)
    return {group: _places(split, folds) for group, split in zip(stated["group"], stated["split"], strict=True)}


def _held_rows(
    frame: pd.DataFrame, plan: SplitPlan, earlier: Mapping[str, tuple[str, int]]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Give which rows are held out, and which are of classes that have no units, so that groups are held out there."""
    assert plan.by is not None
    units, labels = frame[plan.by], frame["label"]
    free = (plan.by == "generator") & ~labels.isin(set(labels[units != ""]))
    names = set(plan.held_out)
    if not names and earlier:
        tested = [earlier.get(group, ("", -1))[0] == "test" for group in frame["group"]]
        names = set(units[tested]) - {""}
    elif not names:
        names = set(draw_units(units[~free], labels[~free], 1 / plan.folds, plan.seed))
    return units.isin(names).to_numpy(), free.to_numpy()


def _keep_whole(
    groups: pd.Series,
    held: NDArray[np.bool_],
    free: NDArray[np.bool_],
    allowed: dict[str, Sequence[int]],
    folds: int,
) -> NDArray[np.bool_]:
    """Let held-out rows alone into fold 0, by `allowed`; give the rows that must be left out for it."""
    pinned = {group for group, places in allowed.items() if 0 not in places}
    test = set(groups[held]) - pinned
    for group in set(groups[~free]) - test:
        allowed.setdefault(group, range(1, folds))
    allowed |= dict.fromkeys(test, (0,))
    in_test = groups.isin(test).to_numpy()
    return in_test & ~held | held & ~in_test


def _off(rows: pd.DataFrame, label: str, shares: pd.Series, aims: Mapping[str, float]) -> str:
    """Say how a class, or what has none, is divided, where that is not as wanted; "" where it is."""
    name = f"class {label}" if label else "what has no label"
    if missing := [side for side in aims if not shares[side]]:
        sources = rows["source"].unique()
        why = f", as all of it is of one source ({sources[0]})" if len(sources) == 1 and sources[0] else ""
        return f"{' and '.join(missing)} lack{'s' * (len(missing) == 1)} {name}{why}"
    tolerance = max(OFF, 1 / len(rows)) + 1e-9  # one picture cannot be divided
    if all(abs(shares[side] - aim) <= tolerance for side, aim in aims.items()):
        return ""
    parts = ("/".join(f"{100 * of[side]:.0f}" for side in aims) for of in (shares, aims))
    largest = int(rows["group"].value_counts().max())
    images = counted(len(rows), "image")
    return f"{name} is {' instead of '.join(parts)} % in {'/'.join(aims)} ({images}, largest group {largest})"
