"""Summary of each recipe over its held-out sources: mean, worst, gain over a base recipe, and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.evaluation.blocks.leave_one_source_out.held_out_sources import (
    HELD_OUT,
    TRAIN_SOURCES,
    Cell,
    Cells,
    read_split_options,
)
from avatar_bench.evaluation.intervals import IntervalOptions
from avatar_bench.evaluation.seeds import group_across_options
from avatar_bench.metrics import paired_tests, stats

if TYPE_CHECKING:
    from avatar_bench.runs.run import Run

Floats = NDArray[np.float64]
Drawn = Mapping[Cell, Floats]  # recall of each cell in B resamples, (B, 1)
Interval = tuple[float, float, float]  # a value with its ends
_KEY = ["source", "target"]
_WORST = ["recall", "low", "high", "source", "target", "groups", "interval"]
_NO_WORST = (np.nan, np.nan, np.nan, "", "", 0, "")


def build_summary(
    options: IntervalOptions, matrix: pd.DataFrame, cells: Cells, drawn: Drawn, runs: Sequence[Run], base: str
) -> pd.DataFrame:
    """Return a row per recipe: mean and worst recall over its counted sources, gain over the base, and cost.

    A gain is the mean difference over the sources of both recipes. `in_domain` is the mean accuracy on val,
    `train_seconds` the mean duration of a training.
    """
    counted, rows = matrix[matrix["counted"]], []
    cost = _compute_costs(runs)
    for recipe in dict.fromkeys(matrix["recipe"]):
        own = counted[counted["recipe"] == recipe]
        worst = own.nsmallest(1, ["recall", "low"]).reindex(columns=_WORST).to_numpy(object).tolist()
        common = _find_common(counted, cells, base, recipe) if recipe != base else []
        pair = [own.set_index(_KEY).loc[common].reset_index(), _select(counted, base).loc[common].reset_index()]
        gain = _summarise(options, *(_resample_mean(options, table, drawn) for table in pair))
        in_domain, seconds = cost[recipe]
        means, worsts = _summarise(options, _resample_mean(options, own, drawn)), worst[0] if worst else _NO_WORST
        spent = in_domain, in_domain - cost[base][0] if recipe != base else np.nan, seconds
        rows.append((recipe, base, len(own), *means, *worsts, len(common), *gain, *spent))
    columns = ["recipe", "base", "sources", "mean", "mean_low", "mean_high", "worst", "worst_low", "worst_high"]
    columns += [*(f"worst_{name}" for name in _WORST[3:]), "gain_sources", "gain", "gain_low", "gain_high"]
    return pd.DataFrame(rows, columns=[*columns, "in_domain", "in_domain_gain", "train_seconds"])


def build_curve(
    options: IntervalOptions, matrix: pd.DataFrame, drawn: Drawn, runs: Sequence[Run]
) -> tuple[pd.DataFrame, dict[str, Interval]]:
    """Return a row per recipe and number of training sources per class, and the gain per doubling of each recipe.

    A point is the mean recall over the counted sources that all points of the recipe have. The gain is the slope of a
    least-squares line over log2 of the number. Recipes with one number, and runs on all sources, are left out.
    """
    names = {place: name for name, places in group_across_options(runs, HELD_OUT).items() for place in places}
    counted, rows, gains = matrix[matrix["counted"]], [], {}
    for curve, places in group_across_options(runs, HELD_OUT, TRAIN_SOURCES).items():
        numbers = {names[place]: read_split_options(runs[place]).get("train_sources") for place in places}
        points = sorted((int(n), recipe) for recipe, n in numbers.items() if n)
        tables = [_select(counted, recipe) for __, recipe in points]
        common = [key for key in tables[0].index if all(key in table.index for table in tables)] if tables else []
        if len(points) < 2 or not common:
            continue
        means = [_resample_mean(options, table.loc[common].reset_index(), drawn) for table in tables]
        rows += [
            (curve, n, len(common), *_summarise(options, mean)) for (n, __), mean in zip(points, means, strict=True)
        ]
        doublings = np.log2([n for n, __ in points])
        slope = (doublings - doublings.mean()) / ((doublings - doublings.mean()) ** 2).sum()
        gains[curve] = _summarise(options, np.column_stack(means) @ slope)
    return pd.DataFrame(rows, columns=["recipe", "train_sources", "sources", "mean", "low", "high"]), gains


def _compute_costs(runs: Sequence[Run]) -> dict[str, tuple[float, float]]:
    """Return the mean accuracy on val and the mean training time of each recipe; NaN if none is recorded."""
    found = [(_read_in_domain_accuracy(run), run.record.get("train_seconds")) for run in runs]
    costs = pd.DataFrame(found, columns=["in_domain", "train_seconds"], dtype=np.float64)
    means = {name: costs.iloc[places].mean() for name, places in group_across_options(runs, HELD_OUT).items()}
    return {name: (float(mean["in_domain"]), float(mean["train_seconds"])) for name, mean in means.items()}


def _read_in_domain_accuracy(run: Run) -> float | None:
    """Return the accuracy on val; None if it has other sources than training."""
    is_known = read_split_options(run).get("val_by") != "source"
    return (run.record.get("metrics") or {}).get("val/accuracy") if is_known else None


def _select(counted: pd.DataFrame, recipe: str) -> pd.DataFrame:
    """Return the rows of a recipe by source and class."""
    return counted[counted["recipe"] == recipe].set_index(_KEY)


def _find_common(counted: pd.DataFrame, cells: Cells, base: str, recipe: str) -> list[tuple[str, str]]:
    """Return the sources and classes that both recipes have, with the same images."""
    paths = [
        {key: cells[Cell(name, *key)][0][1].paths for key in _select(counted, name).index} for name in (base, recipe)
    ]
    return [key for key, own in paths[1].items() if np.array_equal(own, paths[0].get(key, ()))]


def _resample_mean(options: IntervalOptions, rows: pd.DataFrame, drawn: Drawn) -> Floats:
    """Return the mean recall of the rows, then that of each resample, (1 + B,); NaN without rows.

    Whole units are drawn: sources, or those held out together. Draws of equal units are paired.
    """
    if rows.empty:
        return np.full(1, np.nan)
    found = np.hstack([drawn[Cell(*key)] for key in rows[["recipe", *_KEY]].itertuples(index=False)])
    means = paired_tests.resample_units(found, options.seed, rows["unit"].to_numpy(dtype=np.str_))
    return np.concatenate([[rows["recall"].mean()], means])


def _summarise(options: IntervalOptions, mean: Floats, base: Floats | float = 0.0) -> Interval:
    """Return a mean, or its gain over a base, with its interval; NaN for ends that are equal."""
    value, *resamples = mean - base
    low, high = stats.percentiles(np.array(resamples or [np.nan]), options.level)
    return (float(value), float(low), float(high)) if low < high else (float(value), np.nan, np.nan)
