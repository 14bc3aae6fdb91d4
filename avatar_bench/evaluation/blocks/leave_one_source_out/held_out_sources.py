"""Predictions of runs for the sources that they held out of training, and their summary by recipe."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from avatar_bench.data.splits import name_units
from avatar_bench.errors import BlockError
from avatar_bench.evaluation.block import refuse_other_classes, tabulate_predictions
from avatar_bench.evaluation.intervals import IntervalOptions
from avatar_bench.evaluation.seeds import group_across_options, weigh_doublings
from avatar_bench.metrics import paired_tests, stats
from avatar_bench.metrics.units import encode

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.results.predictions import Predictions
    from avatar_bench.runs.run import Run

HELD_OUT, TRAIN_SOURCES = "data.split.held_out", "data.split.train_sources"


class Cell(NamedTuple):
    """Unit of evaluation: images of one class of one source, predicted by the runs of a recipe trained without it."""

    recipe: str
    source: str
    target: str


Cells = dict[Cell, list[tuple["Run", "Predictions"]]]


def read_split_options(run: Run) -> dict[str, Any]:
    """Return the options of a run's split; empty if they are unknown."""
    return (run.config.get("data") or {}).get("split") or {}


def group_cells(runs: Sequence[Run], datasets: Sequence[Dataset]) -> Cells:
    """Return the predictions of each run for each class of its held-out sources, with images and classes aligned."""
    refuse_other_classes(runs)
    cells: Cells = {}
    for recipe, places in group_across_options(runs, HELD_OUT).items():
        for index in places:
            for source, target, predictions in _split_predictions(runs[index], datasets[index], runs[0].classes):
                cells.setdefault(Cell(recipe, source, target), []).append((runs[index], predictions))
    for cell, ((first, predictions), *others) in cells.items():
        for run, answers in others:
            if not np.array_equal(answers.paths, predictions.paths):
                raise BlockError(
                    f"{run.label} and {first.label} are evaluated on different images of {cell.source}.",
                    "Compare runs that were trained on the same data set.",
                )
    return cells


def build_images_table(cells: Mapping[Cell, Sequence[tuple[Run, Predictions]]]) -> pd.DataFrame:
    """Return a row for each image and run; the block's numbers can be recomputed from it."""
    columns = ["path", "group", "prediction", "correct"]
    parts = [
        tabulate_predictions(predictions)[columns].assign(**cell._asdict(), seed=run.seed)
        for cell, members in cells.items()
        for run, predictions in members
    ]
    return pd.concat(parts, ignore_index=True)[[*Cell._fields, "seed", *columns]]


def _split_predictions(run: Run, dataset: Dataset, classes: Sequence[str]) -> Iterator[tuple[str, str, Predictions]]:
    predictions = run.predictions(dataset).reorder(classes)
    names = dataset.frame[read_split_options(run)["by"]]
    is_held_out = _mark_held_out(run, names)
    for name in sorted(set(names[is_held_out]), key=str):
        for index, target in enumerate(classes):
            rows = np.flatnonzero((names == name) & (predictions.targets == index))
            if len(rows):
                ordered = rows[np.argsort(predictions.paths[rows], kind="stable")]
                yield str(name), target, predictions.take(ordered)


def _mark_held_out(run: Run, names: pd.Series) -> NDArray[np.bool_]:
    """Return which images (N,), by the names of their sources, are of those that a run held out, named or drawn."""
    split = read_split_options(run)
    units, held_out = split.get("units") or {}, [str(name) for name in split.get("held_out") or ()]
    if not held_out:
        held_out = sorted(set(run.dataset("test").frame[split["by"]]) - {""})
    wanted = set(name_units(pd.Series(held_out, dtype=object), units))
    return name_units(names.astype(str), units).isin(wanted).to_numpy()


Floats = NDArray[np.float64]
Drawn = Mapping[Cell, Floats]  # recall of each cell in B resamples, (B, 1)
BY_BOTH, BY_GROUP, TESTED = "bootstrap by source and group", "bootstrap by group", "stratified t by source"
_KEY = ["source", "target"]
_WORST = ["source", "target", "groups"]


class Estimate(NamedTuple):
    """A mean over classes, or a difference or slope of such, with its interval and the number of units drawn."""

    value: float
    low: float
    high: float
    n: int
    interval: str


def build_summary(
    options: IntervalOptions, matrix: pd.DataFrame, cells: Cells, drawn: Drawn, runs: Sequence[Run], base: str
) -> pd.DataFrame:
    """Return a row per recipe: mean and worst recall over its counted sources, gain over the base, and cost.

    The mean is that over classes of the mean over the sources of each, a gain the difference of two such means over the
    sources of both recipes, which draws sources alone. `in_domain` is the mean accuracy on val, `train_seconds` the
    mean duration of a training.
    """
    counted, rows = matrix[matrix["counted"]], []
    cost = _compute_costs(runs)
    for recipe in dict.fromkeys(matrix["recipe"]):
        of_recipe = counted[counted["recipe"] == recipe]
        common = _find_common(counted, cells, base, recipe) if recipe != base else []
        pair = [_select(counted, name).loc[common].reset_index() for name in (recipe, base)]
        mean = _summarise(options, of_recipe, _resample_mean(options, of_recipe, drawn), is_recall=True)
        gain = _test_mean(options, pair[0], pair[0]["recall"] - pair[1]["recall"])
        in_domain, seconds = cost[recipe]
        spent = in_domain, in_domain - cost[base][0] if recipe != base else np.nan, seconds
        rows.append((recipe, base, len(of_recipe), *mean, *_find_worst(of_recipe), len(common), *gain, *spent))
    parts = ["", "_low", "_high", "_n", "_interval"]
    columns = ["recipe", "base", "sources", *(f"mean{part}" for part in parts), "worst", "worst_low", "worst_high"]
    columns += [*(f"worst_{name}" for name in _WORST), "gain_sources", *(f"gain{part}" for part in parts)]
    return pd.DataFrame(rows, columns=[*columns, "in_domain", "in_domain_gain", "train_seconds"])


def build_curve(
    options: IntervalOptions, matrix: pd.DataFrame, drawn: Drawn, runs: Sequence[Run]
) -> tuple[pd.DataFrame, dict[str, Estimate]]:
    """Return a row per recipe and number of training sources per class, and the gain per doubling of each recipe.

    A point is the mean over the counted sources that all points of the recipe have. The gain is the slope of a
    least-squares line over log2 of the number. Recipes with one number, and runs on all sources, are left out.
    """
    names = {index: name for name, places in group_across_options(runs, HELD_OUT).items() for index in places}
    counted, rows, gains = matrix[matrix["counted"]], [], {}
    for curve, places in group_across_options(runs, HELD_OUT, TRAIN_SOURCES).items():
        numbers = {names[index]: read_split_options(runs[index]).get("train_sources") for index in places}
        points = sorted((int(n), recipe) for recipe, n in numbers.items() if n)
        tables = [_select(counted, recipe) for __, recipe in points]
        common = [key for key in tables[0].index if all(key in table.index for table in tables)] if tables else []
        if len(points) < 2 or not common:
            continue
        tables = [table.loc[common].reset_index() for table in tables]
        means = [_resample_mean(options, table, drawn) for table in tables]
        estimates = [_summarise(options, tables[0], mean, is_recall=True)[:3] for mean in means]
        rows += [(curve, n, len(common), *estimate) for (n, __), estimate in zip(points, estimates, strict=True)]
        slope = weigh_doublings([n for n, __ in points])
        gains[curve] = _test_mean(options, tables[0], np.column_stack([table["recall"] for table in tables]) @ slope)
    return pd.DataFrame(rows, columns=["recipe", "train_sources", "sources", "mean", "low", "high"]), gains


def _compute_costs(runs: Sequence[Run]) -> dict[str, tuple[float, float]]:
    """Return the mean accuracy on val, of sources of training, and the mean training time of each recipe, or NaN."""
    rows = []
    for run in runs:
        accuracy, val_by = run.record.metrics.get("val/accuracy"), read_split_options(run).get("val_by")
        rows.append((None if val_by == "source" else accuracy, run.record.train_seconds))
    costs = pd.DataFrame(rows, dtype=np.float64)
    means = {name: costs.iloc[places].mean() for name, places in group_across_options(runs, HELD_OUT).items()}
    return {name: (float(accuracy), float(seconds)) for name, (accuracy, seconds) in means.items()}


def _select(counted: pd.DataFrame, recipe: str) -> pd.DataFrame:
    return counted[counted["recipe"] == recipe].set_index(_KEY)


def _find_common(counted: pd.DataFrame, cells: Cells, base: str, recipe: str) -> list[tuple[str, str]]:
    """Return the sources and classes that both recipes have, with the same images."""
    paths = [
        {key: cells[Cell(name, *key)][0][1].paths for key in _select(counted, name).index} for name in (base, recipe)
    ]
    return [key for key, paths_of_key in paths[1].items() if np.array_equal(paths_of_key, paths[0].get(key, ()))]


def _find_worst(rows: pd.DataFrame) -> tuple[float, float, float, str, str, int]:
    """Return the lowest recall with its interval, and the source, class and number of groups; NaN without rows.

    The source that is truly worst need not be the one that looks worst: if all intervals of the sources hold jointly,
    the lowest recall lies between the lowest of their ends.
    """
    if rows.empty:
        return np.nan, np.nan, np.nan, "", "", 0
    ends = rows[["recall", "low_joint", "high_joint"]].min()
    source, target, groups = rows.nsmallest(1, ["recall", "low"])[_WORST].to_numpy(object).tolist()[0]
    return float(ends["recall"]), float(ends["low_joint"]), float(ends["high_joint"]), source, target, groups


def _resample_mean(options: IntervalOptions, rows: pd.DataFrame, drawn: Drawn) -> Floats:
    """Return the mean over classes of the mean recall of their rows, then that of each resample, (1 + B,).

    Whole units are drawn within each class: sources, or those held out together. Where a class has a single one, there
    is nothing to draw them from, and only groups and seeds are. Draws of equal units are paired. NaN without rows.
    """
    if rows.empty:
        return np.full(1, np.nan)
    resampled = np.hstack([drawn[Cell(*key)] for key in rows[["recipe", *_KEY]].itertuples(index=False)])
    units, classes = (rows[name].to_numpy(dtype=np.str_) for name in ("unit", "target"))
    units = units if _has_several_units(rows) else classes
    means = paired_tests.resample_units(resampled, options.seed, units, classes)
    return np.concatenate([[rows.groupby("target")["recall"].mean().mean()], means])


def _has_several_units(rows: pd.DataFrame) -> bool:
    """Return whether each class has several units: sources, or those held out together."""
    return bool(rows.groupby("target")["unit"].nunique().min() > 1)


def _summarise(options: IntervalOptions, rows: pd.DataFrame, mean: Floats, is_recall: bool = False) -> Estimate:
    """Return a mean over `rows`, or a function of several, with its interval; NaN for ends that are equal."""
    value, *resamples = mean
    low, high = map(float, stats.percentiles(np.array(resamples or [np.nan]), options.level))
    is_drawn = _has_several_units(rows)
    n, how = (len(rows), BY_BOTH) if is_drawn else (int(rows["groups"].sum()), BY_GROUP)
    if not low < high:
        low = high = np.nan
    elif is_drawn:
        strata = len(np.unique(paired_tests.find_strata(rows["unit"], rows["target"])))
        units = rows["unit"].nunique()
        low, high = map(float, stats.widen_for_few_units(low, high, value, units, strata, options.level))
    low, high = np.clip([low, high], 0, 1).tolist() if is_recall else (low, high)
    return Estimate(float(value), low, high, n, how)


def _test_mean(options: IntervalOptions, rows: pd.DataFrame, values: ArrayLike) -> Estimate:
    """Return the mean over classes of the means of values (K,), one of each row, with that of a stratified t test.

    There is no interval, and no method, where a class has a single unit: nothing is known of new ones.
    """
    value = np.asarray(values, dtype=np.float64)
    unit, kind = encode(rows["unit"]), encode(rows["target"])
    if rows.empty or not _has_several_units(rows):
        return Estimate(float(pd.Series(value).groupby(kind).mean().mean()), math.nan, math.nan, len(rows), "")
    sizes, strata = np.bincount(kind), np.empty(unit.max() + 1, dtype=np.int64)
    strata[unit] = paired_tests.find_strata(unit, kind)
    means = np.bincount(kind, value) / sizes
    parts = np.bincount(unit, (value - means[kind]) / sizes[kind]) / len(sizes) + means.mean() / len(strata)
    test = paired_tests.stratified_t_test(parts, strata, options.level)
    low, high = np.clip([test.low, test.high], -1, 1).tolist()
    return Estimate(float(means.mean()), low, high, len(rows), TESTED)
