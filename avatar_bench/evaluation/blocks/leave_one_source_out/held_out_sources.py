"""Predictions of runs for the sources that they held out of training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.data.splits import name_units
from avatar_bench.errors import BlockError
from avatar_bench.evaluation.block import tabulate_predictions
from avatar_bench.evaluation.seeds import group_across_options

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
    """Return the predictions of each run for each class of its held-out sources, with images and classes aligned.

    Raise BlockError if runs have different classes, or if the runs of one cell are evaluated on different images.
    """
    found: Cells = {}
    for recipe, places in group_across_options(runs, HELD_OUT).items():
        for place in places:
            for source, target, predictions in _split_predictions(runs[place], datasets[place], runs[0]):
                found.setdefault(Cell(recipe, source, target), []).append((runs[place], predictions))
    for cell, ((first, predictions), *others) in found.items():
        for run, one in others:
            if not np.array_equal(one.paths, predictions.paths):
                raise BlockError(
                    f"{run.label} and {first.label} are evaluated on different images of {cell.source}.",
                    "Compare runs that were trained on the same data set.",
                )
    return found


def build_images_table(cells: Mapping[Cell, Sequence[tuple[Run, Predictions]]]) -> pd.DataFrame:
    """Return a row for each image and run; the block's numbers can be recomputed from it."""
    columns = ["path", "group", "prediction", "correct"]
    parts = [
        tabulate_predictions(one)[columns].assign(**cell._asdict(), seed=run.seed)
        for cell, members in cells.items()
        for run, one in members
    ]
    return pd.concat(parts, ignore_index=True)[[*Cell._fields, "seed", *columns]]


def _split_predictions(run: Run, dataset: Dataset, first: Run) -> Iterator[tuple[str, str, Predictions]]:
    if set(run.classes) != set(first.classes):
        raise BlockError(
            f"{run.label} has the classes {', '.join(run.classes)}, {first.label} {', '.join(first.classes)}.",
            "Compare runs with the same classes.",
        )
    predictions = run.predictions(dataset).reorder(first.classes)
    names = dataset.frame[read_split_options(run)["by"]]
    is_held_out = _mark_held_out(run, names)
    for name in sorted(set(names[is_held_out]), key=str):
        for index, target in enumerate(first.classes):
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
