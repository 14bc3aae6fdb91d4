"""Leaderboards of the models on each set, with ranks, ties, and a comparison with guessing, for a page or a paper."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

import avatar_bench
from avatar_bench.errors import ConfigError, DataError, OutputError, suggest_names
from avatar_bench.files.atomic_write import write_text
from avatar_bench.i18n import _
from avatar_bench.metrics.accuracy_tests import beats_guessing, find_better_than_guessing, widen_low
from avatar_bench.metrics.units import NEW_SOURCES, THESE_IMAGES, THESE_SOURCES
from avatar_bench.reporting import tables
from avatar_bench.reporting.saved_result import SavedResult
from avatar_bench.reporting.study import ReportedModel, Study
from avatar_bench.results.declaration import find_heading, find_word
from avatar_bench.results.display import format_latex, format_value
from avatar_bench.results.result import Metric
from avatar_bench.results.view import SEPARATOR

Metrics = dict[str, Metric | None]
Ranking = dict[str, dict[str, Any]]  # row of each recipe in the ranking of significance, the best first
_POPULATIONS: dict[str, Callable[[], str]] = {  # what a number speaks for, in the current language
    NEW_SOURCES: lambda: _("for new sources: within each class, sources weigh alike"),
    THESE_SOURCES: lambda: _("for new images of these sources"),
    THESE_IMAGES: lambda: _("for these images, whose sources are unknown"),
}
_LATEX_MARK = "% avatar_bench "  # how a file of tables begins
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

    @property
    def title(self) -> str:
        """Return the name of the recipe for a mean over its seeds, otherwise of the model."""
        return self.name if self.seeds else self.model.label

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

    def table(self, metrics: Sequence[str] = (), population: str | None = None) -> pd.DataFrame:
        """Return a row per model: its ranks and letters, and each metric with the ends of its interval.

        A metric is for the `population` that it states, or for the one asked for, NaN where it does not speak for it.
        """
        rows = []
        for row in self.rows:
            cells: dict[str, Any] = {"model": row.title, "rank_low": row.first, "rank_high": row.last}
            cells["letters"] = row.letters
            for key in metrics or self.blocks:
                numbers = select_population(row.metrics.get(key), population)
                cells |= dict(zip((key, f"{key}_low", f"{key}_high"), numbers, strict=True))
            rows.append(cells)
        return pd.DataFrame(rows).astype({"rank_low": "Int64", "rank_high": "Int64"})

    def find_row(self, name: str) -> LeaderboardRow:
        """Return the row of a ranked run or recipe: the first of its name."""
        return next(row for row in self.rows if row.name == name)


def select_population(metric: Metric | None, population: str | None) -> tuple[float | None, ...]:
    """Return the value of a metric for a population, by default its own, and the ends of its interval; None without."""
    if metric is not None and population in (None, metric.population):
        return metric.value, metric.low, metric.high
    stated = (metric.these_sources if metric and population == THESE_SOURCES else None) or {}
    return tuple(stated.get(name) for name in ("value", "low", "high"))


def build_leaderboards(study: Study, metrics: Sequence[str] = ()) -> list[Leaderboard]:
    """Return a leaderboard per set, several where models were evaluated on different images under one name.

    Its metrics are the main ones of the blocks, and further ones of these names.
    """
    return [
        _build_leaderboard(study, name, same, metrics)
        for name in study.sets
        for same in study.group_by_images(name, "blind_test")
    ]


def _build_leaderboard(
    study: Study, name: str, evaluated: dict[str, SavedResult], more: Sequence[str] = ()
) -> Leaderboard:
    is_merged = any(len(merged) > 1 for saved in evaluated.values() for merged in saved.merged_classes.values())
    ranked_by = "balanced_accuracy" if is_merged else "accuracy"
    blocks = {metric: block.name for block in study.list_blocks() for metric in block.leaderboard}
    for block in study.list_blocks() if more else ():
        stated = {metric for saved in study.of_block(name, block.name).values() for metric in saved.result.metrics}
        blocks |= {metric: block.name for metric in more if metric in stated and metric not in blocks}
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
    described = find_word(key := f"set {board.name.partition(SEPARATOR)[0]}")
    notes = " ".join(filter(None, [described if described != key else "", _describe_population(ranked)]))
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
    label = {"text": row.title, **styles[row.model.label]}
    mean = _("mean over {n} seeds, below", n=len(row.seeds)) if row.seeds else ""
    beside = mean or row.model.describe_briefly()
    return label | ({"soft": beside} if beside else {})


def _make_rank_cell(row: LeaderboardRow) -> tables.Cell | None:
    if row.is_guessing or row.reason:
        return {"value": None, "reason": row.reason or _("not significantly better than guessing")}
    return None if row.first is None else {"first": row.first, "last": row.last, "letters": row.letters}


def write_tables(study: Study, file: Path, command: str, metrics: Sequence[str], population: str | None) -> int:
    """Write a table of each set with a number for the population, and return how many there are.

    Raises ConfigError for a metric that no result has, DataError if no set has a number or the file is another one,
    OutputError where it is a folder, OSError where it cannot be written; then the file is as before.
    """
    if file.is_dir():
        raise OutputError(f"out={file} is a folder.", "Expected a file name, such as report.tex.")
    if file.exists() and not file.read_text(encoding="utf-8", errors="replace").startswith(_LATEX_MARK):
        raise DataError(
            f"out={file} is no table of a report, and would be overwritten.", "Choose another: out=FILE.tex"
        )
    known = {metric for model, saved in study.saved if model for metric in saved.result.metrics}
    for name in metrics:
        if name not in known:
            raise ConfigError(f"metrics={name}: no result has it{suggest_names(name, known)}")
    formatted = [_format_latex(study, board, metrics, population) for board in build_leaderboards(study, metrics)]
    texts = [text for text in formatted if text]
    if not texts:
        wanted = f"for {population}" if population else "to show"
        raise DataError(
            f"runs={study.root}: no set has a number {wanted}.", "Evaluate block=blind_test, or ask for others."
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, "\n".join([f"{_LATEX_MARK}{avatar_bench.__version__}: {_escape(command)}", *texts]))
    return len(texts)


def _format_latex(study: Study, board: Leaderboard, metrics: Sequence[str], population: str | None) -> str:
    """Return a table in LaTeX, below comments on its images, runs, intervals and letters; "" without a number."""
    columns = {}
    for key in metrics or board.blocks:
        numbers = [select_population(row.metrics.get(key), population) for row in board.rows]
        if any(number[0] is not None for number in numbers):
            columns[key] = ["–" if value is None else format_value(value, *ends) for value, *ends in numbers]
    if not columns:
        return ""
    headings = {key: find_heading(key, board.blocks[key]) for key in columns}
    ranks = [_format_rank(row) for row in board.rows]
    shown = {_("model"): [row.title for row in board.rows], _("rank"): ranks}
    if board.is_tested:
        shown[_("ties")] = [row.letters for row in board.rows]
    shown |= {headings[key]: texts for key, texts in columns.items()}
    about: dict[str, list[str]] = {}  # headings by what their numbers speak for
    for key, heading in headings.items():
        about.setdefault(_describe_numbers(study, board, key, population), []).append(heading)
    lines = [
        _("{set}: {n} images, fingerprint {fingerprint}", set=board.name, n=board.n, fingerprint=board.fingerprint),
        *(f"{name}: {', '.join(sorted(texts))}" for name, texts in _list_origins(board).items() if texts),
        *(f"{'; '.join(names)}: {text}" for text, names in about.items()),
    ]
    if board.is_tested:
        ties = _("ties: models that share a letter do not differ significantly in accuracy (block significance)")
        tested = {str(row["population"]) for row in board.ranking.values() if "population" in row}
        lines.append("; ".join([ties, *(_POPULATIONS[name]() for name in tested & set(_POPULATIONS))]))
    comments = "".join(f"% {_escape(line)}\n" for line in lines)
    return comments + format_latex(pd.DataFrame(shown), "lr" + "l" * board.is_tested + "r" * len(columns))


def _format_rank(row: LeaderboardRow) -> str:
    """Return the first and the last possible rank of a model."""
    if row.first is None or row.is_guessing:
        return "–"
    return str(row.first) if row.first == row.last else f"{row.first}–{row.last}"


def _list_origins(board: Leaderboard) -> dict[str, set[str]]:
    """Return the seeds and commits of the runs of a leaderboard."""
    records = [row.model.record for row in board.rows if row.model.kind == "run"]
    return {
        _("seed"): {str(record.seed) for record in records if record.seed is not None},
        "commit": {record.git for record in records if record.git},
    }


def _describe_numbers(study: Study, board: Leaderboard, key: str, population: str | None) -> str:
    """Return what the numbers of a metric speak for, and the level of their intervals."""
    stated = {population or metric.population for row in board.rows if (metric := row.metrics[key]) is not None}
    about = [text() for name, text in _POPULATIONS.items() if name in stated]
    about = about or [_("for these images, without an interval")]
    results = study.of_block(board.name, board.blocks[key]).values()
    levels = {saved.result.provenance.get("options", {}).get("level") for saved in results} - {None}
    return "; ".join([*about, *(_("intervals of {level:g} %", level=100 * level) for level in sorted(levels))])


def _escape(text: str) -> str:
    """Return a text on one line, so that a comment does not end within it."""
    return re.sub(r"\s+", " ", text)
