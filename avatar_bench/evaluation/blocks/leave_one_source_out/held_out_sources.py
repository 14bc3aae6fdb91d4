"""Predictions of runs for the sources that they held out of training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from avatar_bench.data.splits import HOLD_OUT_UNITS
from avatar_bench.errors import BlockError
from avatar_bench.evaluation.seeds import Recipes, group_across_option

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.results.predictions import Predictions
    from avatar_bench.runs.run import Run

_OPTION = "data.split.held_out"


class Cell(NamedTuple):
    """Unit of evaluation: images of one class of one source, predicted by the runs of a recipe trained without it."""

    recipe: str
    source: str
    target: str


Cells = dict[Cell, list[tuple["Run", "Predictions"]]]


def read_held_out(run: Run) -> tuple[str, list[str]] | None:
    """Return "source" or "generator" and the names that a run held out; None if it held out nothing."""
    split: dict[str, Any] = (run.config.get("data") or {}).get("split") or {}
    names = [str(name) for name in split.get("held_out") or []]
    return (split["by"], names) if split.get("by") in HOLD_OUT_UNITS and names else None


def group_cells(runs: Sequence[Run], datasets: Sequence[Dataset]) -> Cells:
    """Return the predictions of each run for each class of its held-out sources, with images and classes aligned.

    Raise BlockError if runs have different classes, or if the runs of one cell are evaluated on different images.
    """
    found: Cells = {}
    for recipe, places in group_across_option(runs, _OPTION).items():
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


def build_recipes(cell: Cell, members: Sequence[tuple[Run, Predictions]]) -> Recipes:
    """Combine the predictions of one cell's runs into one recipe."""
    runs, found = [run for run, _ in members], [predictions for _, predictions in members]
    return Recipes.of({cell.recipe: range(len(runs))}, runs, found)


def average_in_domain_accuracy(runs: Sequence[Run]) -> dict[str, float]:
    """Compute the mean validation accuracy, on sources of training, by recipe; NaN if none is recorded."""
    values = pd.Series([(run.record.get("metrics") or {}).get("val/accuracy") for run in runs], dtype=float)
    return {recipe: float(values[places].mean()) for recipe, places in group_across_option(runs, _OPTION).items()}


def build_images_table(cells: Mapping[Cell, Sequence[tuple[Run, Predictions]]]) -> pd.DataFrame:
    """Return a row for each image and run; the block's numbers can be recomputed from it."""
    parts = []
    for cell, members in cells.items():
        for run, one in members:
            predicted = np.array(one.classes)[one.predicted]
            columns = {"path": one.paths, "group": one.groups, "prediction": predicted, "correct": one.correct}
            parts.append(pd.DataFrame(cell._asdict() | {"seed": run.seed} | columns))
    return pd.concat(parts, ignore_index=True)


def _split_predictions(run: Run, dataset: Dataset, first: Run) -> Iterator[tuple[str, str, Predictions]]:
    held_out = read_held_out(run)
    assert held_out is not None
    if set(run.classes) != set(first.classes):
        raise BlockError(
            f"{run.label} has the classes {', '.join(run.classes)}, {first.label} {', '.join(first.classes)}.",
            "Compare runs with the same classes.",
        )
    predictions = run.predictions(dataset).reorder(first.classes)
    units = dataset.frame[held_out[0]].to_numpy(dtype=np.str_)
    for name in held_out[1]:
        for index, target in enumerate(first.classes):
            rows = np.flatnonzero((units == name) & (predictions.targets == index))
            if len(rows):
                ordered = rows[np.argsort(predictions.paths[rows], kind="stable")]
                yield name, target, predictions.take(ordered)
