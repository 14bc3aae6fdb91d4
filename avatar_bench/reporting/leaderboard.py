"""Leaderboards: models evaluated on each set, with ranks, ties, and a comparison with guessing, and their tables."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any

import pandas as pd

from avatar_bench.i18n import _
from avatar_bench.metrics.accuracy_tests import beats_guessing, find_better_than_guessing, widen_low
from avatar_bench.metrics.units import NEW_SOURCES, THESE_IMAGES, THESE_SOURCES
from avatar_bench.reporting import tables
from avatar_bench.reporting.saved_result import SavedResult
from avatar_bench.reporting.study import ReportedModel, Study
from avatar_bench.results.declaration import find_heading
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

    def find_value(self, metric: str) -> float:
        """Return the value of a metric, -1 without one."""
        value = self.metrics[metric]
        return -1.0 if value is None or value.value is None else value.value

    def find_bounds(self, metric: str) -> tuple[float, float]:
        """Return the ends of the interval of a metric, by default its value; without one, nan exceeds nothing."""
        value = self.metrics[metric]
        if value is None or value.value is None:
            return math.nan, math.nan
        return value.value if value.low is None else value.low, value.value if value.high is None else value.high


@dataclass(frozen=True)
class Leaderboard:
    """Models evaluated on the same images, sorted by rank; below a recipe its seeds.

    `ranked_by` is the metric of the ranks: accuracy, or balanced accuracy in a view that merges classes, which are then
    unequal in size. `ranking` is empty where no paired tests were run.
    """

    name: str
    fingerprint: str
    n: int
    rows: list[LeaderboardRow]
    ranking: Ranking
    detectable: Metric | None
    blocks: Mapping[str, str]  # of each metric shown, in order
    ranked_by: str

    @property
    def is_tested(self) -> bool:
        """Return whether ties come from paired tests, otherwise from overlapping intervals of single models."""
        return bool(self.ranking)

    @property
    def names(self) -> list[str]:
        """Return the ranked runs or recipes, the best first."""
        return list(dict.fromkeys(row.name for row in self.rows if row.reason is None))

    @property
    def guessing(self) -> list[str]:
        """Return the ranked runs or recipes that are not significantly better than guessing."""
        return [name for name in self.names if all(row.is_guessing for row in self.rows if row.name == name)]

    def find_row(self, name: str) -> LeaderboardRow:
        """Return the row of a ranked run or recipe: the first of its name."""
        return next(row for row in self.rows if row.name == name)


def build_leaderboards(study: Study) -> list[Leaderboard]:
    """Return a leaderboard per set, several where models were evaluated on different images under one name."""
    return [
        _build_leaderboard(study, name, same)
        for name in study.sets
        for same in study.group_by_images(name, "blind_test")
    ]


def _build_leaderboard(study: Study, name: str, evaluated: dict[str, SavedResult]) -> Leaderboard:
    is_merged = any(len(merged) > 1 for saved in evaluated.values() for merged in saved.merged_classes.values())
    ranked_by = "balanced_accuracy" if is_merged else "accuracy"
    blocks = {metric: block.name for block in study.list_blocks() for metric in block.leaderboard}
    unranked = []
    for model in study.models:
        if model.label in evaluated:
            by_block = {block: saved.result.metrics for (of, block), saved in model.results.items() if of == name}
            metrics = {key: by_block.get(block, {}).get(key) for key, block in blocks.items()}
            unranked.append(LeaderboardRow(model, model.label, metrics))
    ranked = [row for row in unranked if row.model.kind == "run"]
    ranking = {} if is_merged else _find_ranking(study, name, ranked)  # paired tests compare accuracy
    ranked = ranked or unranked
    if ranking:
        ranked = [*ranked, *(row for row in unranked if row not in ranked and row.name in ranking)]
        rows = [_rank_by_tests(row, ranking) for row in ranked]
    else:
        rows = _rank_by_intervals(ranked, ranked_by)
    order = {entry: position for position, entry in enumerate(ranking)}
    rows = _mark_guessing(rows, ranking)
    rows.sort(key=lambda row: (order.get(row.name, 0), -row.find_value(ranked_by)))
    rows = list(_gather_seeds(rows, ranking))
    able = [row for row in rows if not row.is_guessing and row.first is not None]
    is_tied = _is_tied_by_letters if ranking else partial(_is_tied_by_intervals, metric=ranked_by)
    rows = [replace(row, is_best=row in able and is_tied(able[0], row)) for row in rows]
    source = (study.comparisons[name, "significance"] if ranking else evaluated[rows[0].model.label]).result
    reason = _("combines the runs, not ranked")
    others = _mark_guessing([replace(row, reason=reason) for row in unranked if row not in ranked], {})
    rows += sorted(others, key=lambda row: row.find_value(ranked_by), reverse=True)
    fingerprint, detectable = next(iter(evaluated.values())).fingerprint, source.metrics.get("detectable_difference")
    return Leaderboard(name, fingerprint, source.n, rows, ranking, detectable, blocks, ranked_by)


def _find_ranking(study: Study, name: str, runs: Sequence[LeaderboardRow]) -> Ranking:
    """Return the ranking by paired tests, empty where it does not cover these runs."""
    saved = study.comparisons.get((name, "significance"))
    table = saved.result.tables.get("ranking") if saved else None
    if table is None or not set(_RANKING_COLUMNS) <= set(table):
        return {}
    ranking: Ranking = {str(row["recipe"]): {str(key): row[key] for key in row} for row in table.to_dict("records")}
    return ranking if runs and all({row.model.recipe, row.name} & set(ranking) for row in runs) else {}


def _rank_by_tests(row: LeaderboardRow, ranking: Ranking) -> LeaderboardRow:
    entry = row.model.recipe if row.model.recipe in ranking else row.name
    first, last = (int(ranking[entry][key]) for key in ("rank_low", "rank_high"))
    return replace(row, name=entry, first=first, last=last, letters=str(ranking[entry]["letters"]))


def _rank_by_intervals(rows: Sequence[LeaderboardRow], metric: str) -> list[LeaderboardRow]:
    """Rank by overlapping intervals, which is more cautious than a paired test and does not replace one."""
    ranked, bounds = [], [row.find_bounds(metric) for row in rows]
    for row, (low, high) in zip(rows, bounds, strict=True):
        above, reaching = sum(other > high for other, __ in bounds), sum(other >= low for __, other in bounds)
        ranked.append(replace(row, first=1 + above, last=reaching) if reaching else row)
    return ranked


def _is_tied_by_letters(first: LeaderboardRow, row: LeaderboardRow) -> bool:
    letters, others = (set(re.findall(r"[a-z]\d*", compared.letters)) for compared in (row, first))
    return row.name == first.name or bool(letters & others)


def _is_tied_by_intervals(first: LeaderboardRow, row: LeaderboardRow, metric: str) -> bool:
    return row.find_bounds(metric)[1] >= first.find_bounds(metric)[0]


def _mark_guessing(rows: Sequence[LeaderboardRow], ranking: Ranking) -> list[LeaderboardRow]:
    """Mark rows that are not significantly better than guessing: as the ranking states, else by Holm over the rows."""
    better = [ranking.get(row.name, {}).get("better_than_guessing") for row in rows]
    if not all(isinstance(is_better, bool) for is_better in better):
        better = find_better_than_guessing([partial(_is_better, row.metrics["balanced_accuracy"]) for row in rows])
    return [replace(row, is_guessing=is_better is False) for row, is_better in zip(rows, better, strict=True)]


def _is_better(metric: Metric | None, level: float) -> bool | None:
    if metric is None or metric.value is None:
        return None
    units = metric.units or metric.n  # an earlier result has its units in n
    low = None if metric.low is None else widen_low(metric.value, metric.low, level)
    return beats_guessing(metric.value, low, units, metric.floor, level)


def _gather_seeds(rows: Iterable[LeaderboardRow], ranking: Ranking) -> Iterator[LeaderboardRow]:
    """Yield the row of each recipe with several runs, with its means over seeds, and below it the runs, unranked."""
    for name, group in groupby(rows, key=lambda row: row.name):
        runs = list(group)
        if len(runs) > 1:
            metrics = {key: _average([row.metrics[key] for row in runs], key, ranking[name]) for key in runs[0].metrics}
            yield replace(runs[0], metrics=metrics, seeds=tuple(row.model.label for row in runs))
            for row in runs:
                reason = _("seed {seed}", seed=row.model.record.seed)
                yield replace(row, first=None, last=None, letters="", reason=reason)
        else:
            yield from runs


def _average(values: Sequence[Metric | None], key: str, ranked: Mapping[str, Any]) -> Metric | None:
    """Return the mean of a metric over the seeds of a recipe, with its interval where the ranking has one."""
    metrics = [metric for metric in values if metric is not None and metric.value is not None]
    if len(metrics) < len(values):
        return None
    first = replace(metrics[0], low=None, high=None, interval=None, units=None, population=None, these_sources=None)
    value = sum(metric.value or 0.0 for metric in metrics) / len(metrics)
    ends = ("low", "high") if key == "accuracy" else (f"{key}_low", f"{key}_high")
    if key not in ranked or any(pd.isna(ranked[end]) for end in ends):
        return replace(first, value=value)
    stated = {
        column: ranked[column] for column in ("interval", "units", "population") if not pd.isna(ranked.get(column))
    }
    low, high = (float(ranked[end]) for end in ends)
    return replace(first, value=float(ranked[key]), low=low, high=high, **stated)


def build_leaderboard_table(board: Leaderboard, styles: tables.RunStyles) -> tables.Table:
    """Return a leaderboard as a table: one row per model with its rank and ties or a reason, and main metrics."""
    columns = [tables.make_column(_("model")), tables.make_column(_("rank"), True, "lower")]
    blocks = {key: block for key, block in board.blocks.items() if any(row.metrics[key] for row in board.rows)}
    blocks = {key: blocks[key] for key in tables.drop_repeated(blocks, [row.metrics for row in board.rows])}
    columns += [
        tables.make_metric_column(key, block, (row.metrics[key] for row in board.rows)) for key, block in blocks.items()
    ]
    rows = []
    for row in board.rows:
        cells = [tables.make_metric_cell(row.metrics[key], block) for key, block in blocks.items()]
        lead = [_make_label_cell(row, styles), _make_rank_cell(row)]
        rows.append(tables.TableRow([*lead, *cells], list(row.seeds) or row.model.label, row.is_best))
    ranked = [metric for row in board.rows if (metric := row.metrics[board.ranked_by]) is not None]
    if any(metric.these_sources for metric in ranked):
        heading = find_heading(board.ranked_by, board.blocks[board.ranked_by])
        columns.append(tables.make_column(_("{metric}, for these sources", metric=heading), True))
        for row, shown in zip(board.rows, rows, strict=True):
            shown.cells.append(_make_cell_of_these(row.metrics[board.ranked_by]))
    for column in columns:
        column["bars"] = False
    if len(columns) > 2:  # one drawing per row shows the order
        ends = tables.find_ends(row.cells[2] for row in rows)
        columns[2] |= {"bars": True, "start": min(ends), "stop": max(ends)} if ends else {}
    caption = _("Leaderboard on {set}: {n} images, fingerprint {fingerprint}")
    text = caption.format(set=board.name, n=board.n, fingerprint=board.fingerprint)
    notes = _describe_population(ranked)
    if board.ranked_by == "balanced_accuracy":
        ranks = _(
            "Ranked by balanced accuracy: the view merges classes, which are then unequal in size. Ranks are the "
            "ranges that overlapping intervals allow; paired tests, in the block significance, compare accuracy."
        )
        notes = f"{notes} {ranks}".lstrip()
    return tables.Table(
        f"leaderboard_{board.name}_{board.fingerprint}", text, columns, rows, notes or None, compact=True
    )


def _describe_population(ranked: Sequence[Metric]) -> str:
    """Return for which population the intervals and ties of a leaderboard speak; "" if none states it."""
    populations = {metric.population for metric in ranked}
    if populations == {NEW_SOURCES}:
        return _("Values, intervals and ties are for new sources: within each class, sources weigh alike.")
    if populations == {THESE_SOURCES}:
        return _("Intervals and ties are for new images of these sources.")
    if THESE_IMAGES in populations:
        return _("Intervals and ties are for these images: their sources are unknown.")
    return ""


def _make_cell_of_these(metric: Metric | None) -> tables.Cell | None:
    """Return the value of a metric with its interval for these sources; None without one."""
    if metric is None or metric.value is None or metric.these_sources is None:
        return None
    beside = {"value": metric.value, **metric.these_sources}
    return tables.make_interval_cell(float(beside["value"]), beside.get("low"), beside.get("high"))


def _make_label_cell(row: LeaderboardRow, styles: tables.RunStyles) -> tables.Cell:
    label = {"text": row.name if row.seeds else row.model.label, **styles[row.model.label]}
    mean = _("mean over {n} seeds, below", n=len(row.seeds)) if row.seeds else ""
    beside = mean or row.model.describe_briefly()
    return label | ({"soft": beside} if beside else {})


def _make_rank_cell(row: LeaderboardRow) -> tables.Cell | None:
    if row.is_guessing or row.reason:
        return {"value": None, "reason": row.reason or _("not significantly better than guessing")}
    return None if row.first is None else {"first": row.first, "last": row.last, "letters": row.letters}
