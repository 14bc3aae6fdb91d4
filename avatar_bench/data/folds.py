"""Folds: parts of nearly equal size that divide no group, and whole sources or generators chosen for test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

MOST = 1.5  # times the wanted size that a drawn test set may reach, where smaller units are to be had


def group_folds(
    frame: pd.DataFrame, folds: int, seed: int, allowed: Mapping[str, Sequence[int]] | None = None
) -> NDArray[np.int64]:
    """Give each row a fold, 0 to folds - 1, of nearly equal size within each class and source.

    A group is never divided; `allowed` names the folds that a group may be in, where not all. Such groups come first,
    then sources of large groups, and large groups before small ones. Each goes to the fold that is furthest behind in
    its source, among those that are within a hundredth of the class of the one furthest behind in the class.
    """
    rng = np.random.default_rng(seed)
    groups = _group_table(frame)
    groups["order"] = rng.permutation(len(groups))
    groups["free"] = [not allowed or group not in allowed for group in groups.index]
    groups["largest"] = groups.groupby(["label", "source"])["size"].transform("max")
    keys = {"label": True, "free": True, "largest": False, "source": True, "size": False, "order": True}
    groups = groups.sort_values(list(keys), ascending=list(keys.values()))
    tie = rng.permutation(folds)  # so that small sources do not all begin with fold 0
    every, fold_of = np.arange(folds), {}
    for _, of_class in groups.groupby("label", sort=True):
        in_class = np.zeros(folds, dtype=np.int64)
        in_sources = {source: np.zeros(folds, dtype=np.int64) for source in of_class["source"].unique()}
        slack = int(of_class["size"].sum()) // 100
        for group, source, size in zip(of_class.index, of_class["source"], of_class["size"], strict=True):
            may = np.asarray((allowed or {}).get(str(group), every))
            in_source, so_far = in_sources[source], in_class[may]
            far = so_far > so_far.min() + slack
            fold = int(may[np.lexsort((tie[may], so_far, in_source[may], far))[0]])
            in_source[fold] += size
            in_class[fold] += size
            fold_of[str(group)] = fold
    return np.array([fold_of[group] for group in frame["group"]], dtype=np.int64)


def draw_units(units: pd.Series, labels: pd.Series, share: float, seed: int) -> tuple[str, ...]:
    """Draw whole units (sources or generators; "" is none) until each class has about `share` of its rows in them.

    Each class keeps a row outside them, so a class of one unit gets none.
    """
    counts = pd.crosstab(units.to_numpy(), labels.to_numpy())
    shuffled = [str(name) for name in np.random.default_rng(seed).permutation(counts.index.to_numpy()) if name]
    held: list[str] = []

    def can_go(unit: str) -> bool:
        left, mine = counts.drop(index=[*held, unit]).sum().to_numpy(), counts.loc[[unit]].to_numpy()[0]
        return unit not in held and bool((left[mine > 0] > 0).all())

    for label in counts.columns:
        sizes = counts[label].to_dict()
        wanted = share * sum(sizes.values())
        by_size = sorted((unit for unit in shuffled if sizes[unit]), key=lambda unit: sizes[unit])
        within = [(unit, MOST * wanted) for unit in shuffled if sizes[unit]]
        for unit, most in [*within, *((unit, np.inf) for unit in by_size)]:
            taken = sum(sizes[name] for name in held)
            enough = taken >= (wanted if most < np.inf else wanted / 2)
            if not enough and taken + sizes[unit] <= most and can_go(unit):
                held.append(unit)
    return tuple(sorted(held))


def _group_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Give one row a group: its most frequent class and source, and its size."""
    counted = frame.groupby(["group", "label", "source"], sort=True).size().reset_index(name="count")
    main = counted.sort_values(["group", "count"], ascending=[True, False], kind="stable").drop_duplicates("group")
    return main.set_index("group").assign(size=frame.groupby("group").size())
