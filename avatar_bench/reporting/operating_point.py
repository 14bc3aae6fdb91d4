"""Operating points in the report: what models do at a threshold and a prevalence that the reader chooses by sliders."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from avatar_bench.i18n import _
from avatar_bench.metrics.operating_curve import OF_ALL, OF_CLASS, compute_precision
from avatar_bench.metrics.stats import Floats
from avatar_bench.reporting.study import Study
from avatar_bench.reporting.tables import Cell, Table, TableRow, make_column
from avatar_bench.results.declaration import Declaration, find_word

_MOST_BYTES = 40_000  # of the numbers of a model in the page
_DIGITS = 4  # of each of them


@dataclass(frozen=True)
class ModelCurve:
    """Table of a model at the first threshold and prevalence, and its numbers at all thresholds for the page's script.

    `data` is JSON: thresholds, and numbers by set; measure, which are coverage, error, then recall and false alarms of
    each class; value, low and high; and threshold.
    """

    model: str
    table: Table
    thresholds: list[float]
    data: str


@dataclass(frozen=True)
class OperatingPoint:
    """Curves of the models of a block, and what sliders can choose.

    Intervals are at `level`, but those of recall and false alarms at `rate_level`.
    """

    curves: list[ModelCurve]
    classes: Sequence[str]
    level: float
    rate_level: float

    threshold: ClassVar[float] = 0.9  # at first
    prevalence: ClassVar[float] = 0.01
    prevalences: ClassVar[list[float]] = [
        float(f"{step}e{power}") for power in (-4, -3, -2, -1) for step in (1, 1.5, 2, 3, 5, 7)
    ][:-1]

    @property
    def chosen(self) -> str:
        """Return the class that is chosen at first."""
        return "generated" if "generated" in self.classes else self.classes[-1]

    @property
    def thresholds(self) -> list[float]:
        """Return the thresholds of all models."""
        return sorted({threshold for curve in self.curves for threshold in curve.thresholds})


def build_operating_point(study: Study, block: Declaration) -> OperatingPoint | None:
    """Return the curves of the models in the table that a block declares for sliders, None where no result has it."""
    name = next((name for name, table in block.tables.items() if table.sliders), "")
    keys = [(of, block.name) for of in study.sets]
    saved = {
        model.label: [result for result in map(model.results.get, keys) if result and name in result.result.tables]
        for model in study.models
    }
    everything = [result for results in saved.values() for result in results]
    if not everything:
        return None
    classes = list(dict.fromkeys(of for result in everything for of in result.result.classes))
    curves = []
    for label, results in saved.items():
        if results:
            tables = [result.result.tables[name] for result in results]
            longest = results[int(np.argmax([len(table) for table in tables]))]
            shown = Table(name, _("Operating point of {model}", model=label), [make_column(_("metric"))])
            shown.href = study.link_files(longest).get(name)
            curves.append(_fill_curve(shown, label, classes, _list_sets(tables)))
    levels = pd.concat([result.result.tables[name]["level"] for result in everything])
    return OperatingPoint(curves, classes, float(levels.min()), float(levels.max()))


def _list_sets(tables: Sequence[pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Return the rows of each set: first of the sets of results, with which tables begin, then of further ones."""
    ranked = [(rank, of, rows) for table in tables for rank, (of, rows) in enumerate(table.groupby("set", sort=False))]
    sets: dict[str, pd.DataFrame] = {}
    for __, of, rows in sorted(ranked, key=itemgetter(0)):
        sets.setdefault(str(of), rows)
    return sets


def _fill_curve(table: Table, label: str, classes: Sequence[str], sets: Mapping[str, pd.DataFrame]) -> ModelCurve:
    """Return the curve of a model, with as many sets as there is room; the empty table gets its rows and columns."""
    thresholds = sorted({0.0}.union(*(rows["threshold"] for rows in sets.values())))
    first = max(k for k, threshold in enumerate(thresholds) if threshold <= OperatingPoint.threshold)
    table.rows = [TableRow([text]) for text in _list_measures(classes)]
    numbers: list[Any] = []
    data = ""
    for of, rows in sets.items():
        numbers.append(_stack(rows, classes, thresholds))
        longer = json.dumps({"thresholds": thresholds, "sets": numbers}, separators=(",", ":"))
        if data and len(longer) > _MOST_BYTES:
            break
        data, hint = longer, _("for {population}", population=find_word(rows["population"].iloc[0]))
        table.columns.append(make_column(of, True, bars=False, hint=hint))
        cells = _list_cells(np.array(numbers[-1], dtype=np.float64)[:, :, first])
        for row, cell in zip(table.rows, cells, strict=True):
            row.cells.append(cell)
    return ModelCurve(label, table, thresholds, data)


def _stack(rows: pd.DataFrame, classes: Sequence[str], thresholds: Sequence[float]) -> list[Any]:
    """Return the rounded numbers of a set by measure, value and ends, and threshold; None where there is none."""
    kinds = [(name, "") for name in OF_ALL] + [(name, of) for of in classes for name in OF_CLASS]
    index = pd.MultiIndex.from_tuples([(*kind, threshold) for kind in kinds for threshold in thresholds])
    values = rows.set_index(["measure", "class", "threshold"])[["value", "low", "high"]].reindex(index).to_numpy()
    stacked = values.reshape(len(kinds), len(thresholds), 3).swapaxes(1, 2).tolist()
    return [[[_round(number) for number in part] for part in measure] for measure in stacked]


def _round(number: float) -> float | None:
    return None if math.isnan(number) else float(f"{number:.{_DIGITS}g}")


def _list_measures(classes: Sequence[str]) -> list[str]:
    """Return the headings of the rows of a table, which the page's script expects in this order."""
    rows = [_("answered images (%)"), _("errors among the answers (%)")]
    for name in classes:
        rows += [
            _("{name}: recall (%)", name=name),
            _("{name}: false alarms in 1,000 images of other classes", name=name),
            _("{name}: precision at the prevalence (%)", name=name),
        ]
    return rows


def _list_cells(numbers: Floats) -> list[Cell | None]:
    """Return the cells of a set, of numbers by measure, value and ends; None without a value."""
    rows = [100 * numbers[0], 100 * numbers[1]]
    for recall, alarms in zip(numbers[2::2], numbers[3::2], strict=True):
        rows += [100 * recall, 1000 * alarms, 100 * compute_precision(recall, alarms, OperatingPoint.prevalence)]
    texts = [
        [np.format_float_positional(number, 3, unique=False, fractional=False, trim="-") for number in row]
        for row in rows
    ]
    return [
        None if text == "nan" else {"value": float(row[0]), "text": text, "soft": f"{low}–{high}"}
        for row, (text, low, high) in zip(rows, texts, strict=True)
    ]
