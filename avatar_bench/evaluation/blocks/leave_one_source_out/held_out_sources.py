"""What runs say of the sources that each of them left out, set side by side for leave_one_source_out."""

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
    """Name what is judged at once: the images of one class of one source, by the runs of a recipe without it."""

    recipe: str
    source: str
    target: str


Cells = dict[Cell, list[tuple["Run", "Predictions"]]]


def read_held_out(run: Run) -> tuple[str, list[str]] | None:
    """Give "source" or "generator" and the names of those that a run left out; None where it left none out."""
    split: dict[str, Any] = (run.config.get("data") or {}).get("split") or {}
    names = [str(name) for name in split.get("held_out") or []]
    return (split["by"], names) if split.get("by") in HOLD_OUT_UNITS and names else None


def group_cells(runs: Sequence[Run], datasets: Sequence[Dataset]) -> Cells:
    """Give what each run says of each class of each source that it left out, images and classes in one order.

    Raises BlockError where runs know different classes, or those of one cell are judged on different images.
    """
    found: Cells = {}
    for recipe, places in group_across_option(runs, _OPTION).items():
        for place in places:
            for source, target, predictions in _parts(runs[place], datasets[place], runs[0]):
                found.setdefault(Cell(recipe, source, target), []).append((runs[place], predictions))
    for cell, members in found.items():
        _check(cell, members)
    return found


def build_recipes(cell: Cell, members: Sequence[tuple[Run, Predictions]]) -> Recipes:
    """Give the answers of one cell's runs as those of one recipe."""
    runs, found = [run for run, _ in members], [predictions for _, predictions in members]
    return Recipes.of({cell.recipe: range(len(runs))}, runs, found)


def average_in_domain_accuracy(runs: Sequence[Run]) -> dict[str, float]:
    """Give the mean accuracy on val, whose sources training knows, by recipe; NaN where none is recorded."""
    values = [(run.record.get("metrics") or {}).get("val/accuracy") for run in runs]
    known = {
        recipe: [float(value) for place in places if (value := values[place]) is not None]
        for recipe, places in group_across_option(runs, _OPTION).items()
    }
    return {recipe: float(np.mean(each)) if each else np.nan for recipe, each in known.items()}


def build_images_table(cells: Mapping[Cell, Sequence[tuple[Run, Predictions]]]) -> pd.DataFrame:
    """Give a row for each image and run, from which every figure of the block can be computed."""
    parts = []
    for cell, members in cells.items():
        for run, one in members:
            said = np.array(one.classes)[one.predicted]
            told = {"path": one.paths, "group": one.groups, "prediction": said, "correct": one.correct}
            parts.append(pd.DataFrame(cell._asdict() | {"seed": run.seed} | told))
    return pd.concat(parts, ignore_index=True)


def _parts(run: Run, dataset: Dataset, first: Run) -> Iterator[tuple[str, str, Predictions]]:
    held = read_held_out(run)
    assert held is not None
    if set(run.classes) != set(first.classes):
        raise BlockError(
            f"{run.label} knows the classes {', '.join(run.classes)}, {first.label} {', '.join(first.classes)}."
        )
    predictions = run.predictions(dataset).reorder(first.classes)
    units = dataset.frame[held[0]].to_numpy(dtype=np.str_)
    for name in held[1]:
        for index, target in enumerate(first.classes):
            rows = np.flatnonzero((units == name) & (predictions.targets == index))
            if len(rows):
                ordered = rows[np.argsort(predictions.paths[rows], kind="stable")]
                yield name, target, predictions.take(ordered)


def _check(cell: Cell, members: Sequence[tuple[Run, Predictions]]) -> None:
    first, predictions = members[0]
    for run, others in members:
        if not np.array_equal(others.paths, predictions.paths):
            raise BlockError(
                f"{run.label} is judged on other images of {cell.source} than {first.label}.",
                "Compare runs that were trained on one data set.",
            )
