"""Leaderboards: models evaluated on each set, with ranks, ties, and a comparison with guessing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any

import pandas as pd

from avatar_bench.i18n import _
from avatar_bench.metrics.guessing import beats_guessing, find_better_than_guessing, widen_low
from avatar_bench.reporting.saved_result import SavedResult
from avatar_bench.reporting.study import ReportedModel, Study
from avatar_bench.results.declaration import declare_block
from avatar_bench.results.result import Metric

Metrics = dict[str, Metric | None]
Ranking = dict[str, dict[str, Any]]  # row of each recipe in the ranking of significance, the best first
_RANKING_COLUMNS = ("recipe", "accuracy", "low", "high", "rank_low", "rank_high", "letters")


@dataclass(frozen=True)
class LeaderboardRow:
    """Row of a model: its first and last possible rank, the `letters` of its ties, and its metrics.

    `name` is the ranked unit: the run, or the recipe of which the run is one seed. The row of a recipe, whose `model`
    is the first of its runs, has the labels of all `seeds`. A model without ranks has a `reason`. `is_guessing`: it is
    not significantly better than guessing; `is_best`: it is the best model or tied with it.
    """

    model: ReportedModel
    name: str
    metrics: Metrics
    is_guessing: bool = False
    first: int | None = None
    last: int | None = None
    letters: str = ""
    is_best: bool = False
    reason: str | None = None
    seeds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Leaderboard:
    """Models evaluated on the same images, sorted by rank; below a recipe its seeds.

    `is_tested`: ties come from paired tests; otherwise from overlapping intervals of single models. `ranked_by` is the
    metric of the ranks: accuracy, or balanced accuracy in a view that merges classes, which are then unequal in size.
    """

    name: str
    fingerprint: str
    n: int
    rows: list[LeaderboardRow]
    is_tested: bool
    ranking: Ranking | None
    detectable: Metric | None
    blocks: Mapping[str, str]  # of each metric shown, in order
    ranked_by: str = "accuracy"

    @property
    def names(self) -> list[str]:
        """Return the ranked runs or recipes, the best first."""
        return list(dict.fromkeys(row.name for row in self.rows if row.reason is None))

    @property
    def guessing(self) -> list[str]:
        """Return the ranked runs or recipes that are not significantly better than guessing."""
        return [name for name in self.names if all(row.is_guessing for row in self.rows if row.name == name)]


def build_leaderboards(study: Study) -> list[Leaderboard]:
    """Return a leaderboard per set, several where models were evaluated on different images under one name."""
    leaderboards = []
    for name in study.sets:
        evaluated = study.of_block(name, "blind_test")
        for fingerprint in dict.fromkeys(saved.fingerprint for saved in evaluated.values()):
            same = {label: saved for label, saved in evaluated.items() if saved.fingerprint == fingerprint}
            leaderboards.append(_build_leaderboard(study, name, fingerprint, same))
    return leaderboards


def _build_leaderboard(study: Study, name: str, fingerprint: str, evaluated: dict[str, SavedResult]) -> Leaderboard:
    runs = [model for model in study.runs if model.label in evaluated]
    ensembles = [model for model in study.models if model.label in evaluated and model not in runs]
    is_merged = any(len(merged) > 1 for saved in evaluated.values() for merged in saved.merged_classes.values())
    ranked_by = "balanced_accuracy" if is_merged else "accuracy"
    ranking = _find_ranking(study, name, runs) if ranked_by == "accuracy" else None  # paired tests compare accuracy
    if not runs:
        runs, ensembles = ensembles, []
    if ranking is None:
        rows = _rank_by_intervals(runs, name, ranked_by)
    else:
        within = [model for model in ensembles if model.label in ranking]
        rows = [_rank_by_tests(model, ranking, name) for model in [*runs, *within]]
        ensembles = [model for model in ensembles if model not in within]
    order = {entry: place for place, entry in enumerate(ranking or ())}
    rows = _mark_guessing(rows, ranking)
    rows.sort(key=lambda row: (order.get(row.name, 0), -_find_value(row, ranked_by)))
    rows = list(_gather_seeds(rows, ranking or {}))
    is_tied = _is_tied_by_letters if ranking is not None else partial(_is_tied_by_intervals, metric=ranked_by)
    able = [row for row in rows if not row.is_guessing and row.first is not None]
    rows = [replace(row, is_best=row in able and is_tied(able[0], row)) for row in rows]
    source = evaluated[rows[0].model.label] if ranking is None else study.comparisons[name, "significance"]
    reason = _("combines the runs, not ranked")
    others = _mark_guessing(_rank_by_intervals(ensembles, name, ranked_by))
    unranked = [replace(row, first=None, last=None, reason=reason) for row in others]
    rows += sorted(unranked, key=lambda row: _find_value(row, ranked_by), reverse=True)
    detectable, blocks = source.result.metrics.get("detectable_difference"), _list_metrics(study.models)
    is_tested = ranking is not None
    return Leaderboard(name, fingerprint, source.result.n, rows, is_tested, ranking, detectable, blocks, ranked_by)


def _find_ranking(study: Study, name: str, models: Sequence[ReportedModel]) -> Ranking | None:
    """Return the ranking by paired tests, None where it does not cover these runs."""
    saved = study.comparisons.get((name, "significance"))
    table = saved.result.tables.get("ranking") if saved else None
    if table is None or not models or not set(_RANKING_COLUMNS) <= set(table):
        return None
    found: Ranking = {str(row["recipe"]): {str(key): row[key] for key in row} for row in table.to_dict("records")}
    return found if all({model.recipe, model.label} & set(found) for model in models) else None


def _rank_by_tests(model: ReportedModel, ranking: Ranking, name: str) -> LeaderboardRow:
    entry = model.recipe if model.recipe in ranking else model.label
    place = ranking[entry]
    first, last = (int(place[key]) for key in ("rank_low", "rank_high"))
    return LeaderboardRow(
        model, entry, _collect_metrics(model, name), first=first, last=last, letters=str(place["letters"])
    )


def _rank_by_intervals(models: Sequence[ReportedModel], name: str, metric: str) -> list[LeaderboardRow]:
    """Rank by overlapping intervals, which is more cautious than a paired test and does not replace one."""
    metrics = {model.label: _collect_metrics(model, name) for model in models}
    bounds = {label: _find_bounds(row_metrics[metric]) for label, row_metrics in metrics.items()}
    rows = []
    for model in models:
        own, row_metrics = bounds[model.label], metrics[model.label]
        others = [other for label, other in bounds.items() if label != model.label and other is not None]
        first = None if own is None else 1 + sum(low > own[1] for low, __ in others)
        last = None if own is None else 1 + sum(high >= own[0] for __, high in others)
        rows.append(LeaderboardRow(model, model.label, row_metrics, first=first, last=last))
    return rows


def _is_tied_by_letters(first: LeaderboardRow, row: LeaderboardRow) -> bool:
    own, others = (set(re.findall(r"[a-z]\d*", one.letters)) for one in (row, first))
    return row.name == first.name or bool(own & others)


def _is_tied_by_intervals(first: LeaderboardRow, row: LeaderboardRow, metric: str) -> bool:
    best, own = _find_bounds(first.metrics[metric]), _find_bounds(row.metrics[metric])
    return best is not None and own is not None and own[1] >= best[0]


def _mark_guessing(rows: Sequence[LeaderboardRow], ranking: Ranking | None = None) -> list[LeaderboardRow]:
    """Mark rows that are not significantly better than guessing: as the ranking states, else by Holm over the rows."""
    better = [(ranking or {}).get(row.name, {}).get("better_than_guessing") for row in rows]
    if not all(isinstance(one, bool) for one in better):
        better = find_better_than_guessing([partial(_is_better, row.metrics["balanced_accuracy"]) for row in rows])
    return [replace(row, is_guessing=one is False) for row, one in zip(rows, better, strict=True)]


def _is_better(found: Metric | None, level: float) -> bool | None:
    if found is None or found.value is None:
        return None
    units = found.units or found.n  # an earlier result has its units in n
    low = None if found.low is None else widen_low(found.value, found.low, level)
    return beats_guessing(found.value, low, units, found.floor, level)


def _gather_seeds(rows: Iterable[LeaderboardRow], ranking: Ranking) -> Iterator[LeaderboardRow]:
    """Yield the row of each recipe with several runs, with its means over seeds, and below it the runs, unranked."""
    for name, group in groupby(rows, key=lambda row: row.name):
        runs = list(group)
        if len(runs) > 1:
            metrics = {key: _average([row.metrics[key] for row in runs], key, ranking[name]) for key in runs[0].metrics}
            yield replace(runs[0], metrics=metrics, seeds=tuple(row.model.label for row in runs))
            runs = [
                replace(
                    row, first=None, last=None, letters="", reason=_("seed {seed}", seed=row.model.record.get("seed"))
                )
                for row in runs
            ]
        yield from runs


def _average(found: Sequence[Metric | None], key: str, place: Mapping[str, Any]) -> Metric | None:
    """Return the mean of a metric over the seeds of a recipe, with its interval where the ranking has one."""
    metrics = [metric for metric in found if metric is not None and metric.value is not None]
    if len(metrics) < len(found):
        return None
    first = replace(metrics[0], low=None, high=None, interval=None, units=None, population=None, these_sources=None)
    value = sum(metric.value or 0.0 for metric in metrics) / len(metrics)
    ends = ("low", "high") if key == "accuracy" else (f"{key}_low", f"{key}_high")
    if key not in place or any(pd.isna(place[end]) for end in ends):
        return replace(first, value=value)
    stated = {column: place[column] for column in ("interval", "units", "population") if not pd.isna(place.get(column))}
    low, high = (float(place[end]) for end in ends)
    return replace(first, value=float(place[key]), low=low, high=high, **stated)


def _collect_metrics(model: ReportedModel, name: str) -> Metrics:
    found = {metric: model.results.get((name, block)) for metric, block in _list_metrics([model]).items()}
    return {metric: saved.result.metrics.get(metric) if saved else None for metric, saved in found.items()}


def _list_metrics(models: Iterable[ReportedModel]) -> dict[str, str]:
    """Return the metrics of the leaderboard with their blocks, as the blocks with results declare them."""
    evaluated = {block for model in models for __, block in model.results} | {"blind_test"}
    declared = sorted((declare_block(block) for block in evaluated), key=lambda one: (one.order, one.name))
    return dict(reversed([(metric, one.name) for one in reversed(declared) for metric in reversed(one.leaderboard)]))


def _find_bounds(metric: Metric | None) -> tuple[float, float] | None:
    if metric is None or metric.value is None:
        return None
    return (metric.value if metric.low is None else metric.low, metric.value if metric.high is None else metric.high)


def _find_value(row: LeaderboardRow, name: str) -> float:
    metric = row.metrics[name]
    return metric.value if metric is not None and metric.value is not None else -1.0
