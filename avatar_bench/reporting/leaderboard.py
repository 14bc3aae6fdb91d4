"""Leaderboards: the models evaluated on each set, with their ranks, ties, and who is no better than guessing."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from avatar_bench.i18n import _
from avatar_bench.metrics.guessing import beats_guessing
from avatar_bench.reporting.saved_result import Saved
from avatar_bench.reporting.study import Model, Study
from avatar_bench.results.result import Metric

COLUMNS = {  # metrics and their blocks; the first decides on the order
    "accuracy": "blind_test",
    "balanced_accuracy": "blind_test",
    "macro_f1": "blind_test",
    "robustness": "robustness",
    "ece_15": "calibration",
    "images_per_second/b1": "efficiency",
    "params_m": "architecture",
}
Metrics = dict[str, Metric | None]
Ranking = dict[str, dict[str, Any]]  # what significance says of each recipe, the best first
_RANKING = ("recipe", "accuracy", "low", "high", "rank_low", "rank_high", "letters")


@dataclass(frozen=True)
class Row:
    """A model's place: the first and last rank that it may have, `letters` of its ties, and its metrics.

    `name` is what is ranked: the run, or the recipe of which it is one seed. A model without ranks has a `reason`.
    `guesses` where it is no better than guessing; `best` where nothing speaks against its being the best of the others.
    """

    model: Model
    name: str
    metrics: Metrics
    guesses: bool
    first: int | None = None
    last: int | None = None
    letters: str = ""
    best: bool = False
    reason: str | None = None


@dataclass(frozen=True)
class Board:
    """The order of the models evaluated on the same images.

    `tested` is True where paired tests decide on ties, False where only intervals of single models are known.
    """

    name: str
    fingerprint: str
    n: int
    rows: list[Row]
    tested: bool
    ranking: Ranking | None
    detectable: Metric | None

    @property
    def names(self) -> list[str]:
        """Return what is ranked, the best first."""
        return list(dict.fromkeys(row.name for row in self.rows if row.reason is None))

    @property
    def guessing(self) -> list[str]:
        """Return what is ranked and no better than guessing."""
        return [name for name in self.names if all(row.guesses for row in self.rows if row.name == name)]


def boards(study: Study) -> list[Board]:
    """Return a board for each set, several where models were evaluated on different images under one name."""
    found = []
    for name in study.sets:
        evaluated = study.of_block(name, "blind_test")
        for fingerprint in dict.fromkeys(saved.fingerprint for saved in evaluated.values()):
            same = {label: saved for label, saved in evaluated.items() if saved.fingerprint == fingerprint}
            found.append(_board(study, name, fingerprint, same))
    return found


def _board(study: Study, name: str, fingerprint: str, evaluated: dict[str, Saved]) -> Board:
    runs = [model for model in study.runs if model.label in evaluated]
    ensembles = [model for model in study.models if model.label in evaluated and model not in runs]
    ranking = _ranking(study, name, runs)
    if not runs:
        runs, ensembles = ensembles, []
    if ranking is None:
        rows = _untested(runs, name)
    else:
        within = [model for model in ensembles if model.label in ranking]
        rows = [_tested(model, ranking, name) for model in [*runs, *within]]
        ensembles = [model for model in ensembles if model not in within]
    order = {entry: place for place, entry in enumerate(ranking or ())}
    rows.sort(key=lambda row: (order.get(row.name, 0), -_accuracy(row)))
    rows = _with_best(rows, _tied_by_letters if ranking is not None else _tied_by_intervals)
    source = evaluated[rows[0].model.label] if ranking is None else study.comparisons[name, "significance"]
    rows += sorted((_unranked(model, name) for model in ensembles), key=_accuracy, reverse=True)
    n = source.result.n
    return Board(name, fingerprint, n, rows, ranking is not None, ranking, source.metric("detectable_difference"))


def _ranking(study: Study, name: str, models: Sequence[Model]) -> Ranking | None:
    """Return the ranking made by paired tests, None where it does not cover these runs."""
    saved = study.comparisons.get((name, "significance"))
    table = saved.result.tables.get("ranking") if saved else None
    if table is None or not models or not set(_RANKING) <= set(table):
        return None
    found: Ranking = {str(row["recipe"]): {str(key): row[key] for key in row} for row in table.to_dict("records")}
    return found if all({model.recipe, model.label} & set(found) for model in models) else None


def _tested(model: Model, ranking: Ranking, name: str) -> Row:
    entry = model.recipe if model.recipe in ranking else model.label
    place = ranking[entry]
    first, last = (int(place[key]) for key in ("rank_low", "rank_high"))
    metrics, better = _metrics(model, name), place.get("better_than_guessing")
    guesses = not better if isinstance(better, bool) else _guesses(metrics)
    return Row(model, entry, metrics, guesses, first, last, str(place["letters"]))


def _untested(models: Sequence[Model], name: str) -> list[Row]:
    """Rank by intervals that overlap, which is more cautious than a paired test and no substitute for one."""
    metrics = {model.label: _metrics(model, name) for model in models}
    bounds = {label: _bounds(found["accuracy"]) for label, found in metrics.items()}
    rows = []
    for model in models:
        mine, found = bounds[model.label], metrics[model.label]
        theirs = [other for label, other in bounds.items() if label != model.label and other is not None]
        first = None if mine is None else 1 + sum(low > mine[1] for low, __ in theirs)
        last = None if mine is None else 1 + sum(high >= mine[0] for __, high in theirs)
        rows.append(Row(model, model.label, found, _guesses(found), first, last))
    return rows


def _unranked(model: Model, name: str) -> Row:
    metrics = _metrics(model, name)
    return Row(model, model.label, metrics, _guesses(metrics), reason=_("made of the runs, not ranked"))


def _with_best(rows: list[Row], tied: Callable[[Row, Row], bool]) -> list[Row]:
    """Mark the first row that is better than guessing and those tied with it."""
    able = [row for row in rows if not row.guesses and row.first is not None]
    return [replace(row, best=row in able and tied(able[0], row)) for row in rows]


def _tied_by_letters(first: Row, row: Row) -> bool:
    own, others = (set(re.findall(r"[a-z]\d*", one.letters)) for one in (row, first))
    return row.name == first.name or bool(own & others)


def _tied_by_intervals(first: Row, row: Row) -> bool:
    best, mine = _bounds(first.metrics["accuracy"]), _bounds(row.metrics["accuracy"])
    return best is not None and mine is not None and mine[1] >= best[0]


def _guesses(metrics: Metrics) -> bool:
    found = metrics["balanced_accuracy"]
    if found is None or found.value is None:
        return False
    return beats_guessing(found.value, found.low, found.n, found.floor) is False


def _metrics(model: Model, name: str) -> Metrics:
    found = {metric: model.results.get((name, block)) for metric, block in COLUMNS.items()}
    return {metric: saved.metric(metric) if saved else None for metric, saved in found.items()}


def _bounds(metric: Metric | None) -> tuple[float, float] | None:
    if metric is None or metric.value is None:
        return None
    return (metric.value if metric.low is None else metric.low, metric.value if metric.high is None else metric.high)


def _accuracy(row: Row) -> float:
    metric = row.metrics["accuracy"]
    return metric.value if metric is not None and metric.value is not None else -1.0
