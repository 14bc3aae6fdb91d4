"""Leader boards: who stands where on each set, ties kept as ties, and the answer in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from avatar_bench.messages import say
from avatar_bench.reporting.numbers import figure, listed, written
from avatar_bench.reporting.saved import Saved
from avatar_bench.reporting.study import Model, Study
from avatar_bench.results import Metric

COLUMNS = (  # block and metric; the first decides on the order
    ("blind_test", "accuracy"),
    ("robustness", "robustness"),
    ("calibration", "ece_15"),
    ("efficiency", "images_per_second/b1"),
    ("architecture", "params_m"),
)
Ranking = dict[str, dict[str, Any]]  # what significance says of each recipe, the best first
_RANKING = ("recipe", "accuracy", "low", "high", "rank_low", "rank_high", "letters", "tied_with_best")


@dataclass(frozen=True)
class Row:
    """Hold a run's place: the first and last rank that it may have, `letters` of its ties, and its figures.

    `name` is what is ranked: the run, or the recipe of which it is one seed. `best` says that nothing speaks against
    its being the best.
    """

    model: Model
    name: str
    first: int | None
    last: int | None
    letters: str
    best: bool
    metrics: tuple[Metric | None, ...]


@dataclass(frozen=True)
class Board:
    """Hold the order of the runs that were judged on the same pictures, and by what they are told apart.

    `tested` is True where paired tests say so, False where only intervals of single runs are known.
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
        """Give what is ranked, the best first."""
        return list(dict.fromkeys(row.name for row in self.rows))


def boards(study: Study) -> list[Board]:
    """Give a board for each set, several where runs were judged on different pictures under one name."""
    found = []
    for name in study.sets:
        judged = study.of_block(name, "blind_test")
        of_runs = {model.label: judged[model.label] for model in study.runs if model.label in judged}
        for fingerprint in dict.fromkeys(saved.fingerprint for saved in of_runs.values()):
            same = {label: saved for label, saved in of_runs.items() if saved.fingerprint == fingerprint}
            found.append(_board(study, name, fingerprint, same))
    return found


def answer(board: Board) -> str:
    """Say in a sentence who is best on a set, by how much, and from whom that cannot be told."""
    level = _level(board)
    unread = [entry for entry in board.ranking or () if entry not in board.names]
    left_out = " " + say("Without a usable accuracy, and left out: {names}.", names=listed(unread)) if unread else ""
    best = {row.name for row in board.rows if row.best}
    ties = [name for name in board.names if name in best and name not in level]
    return f"{_head(board, level)}{_told_apart(board, level, ties)}.{left_out}"


def _head(board: Board, level: Sequence[str]) -> str:
    name, n, found = listed(level), len(board.names), best_figure(board)
    if n == 1:
        return say("{name} on {set}: accuracy {figure}", name=name, set=board.name, figure=found)
    if len(level) > 1:
        return say(
            "Level first of {n} on {set}: {name}, accuracy {figure}", n=n, set=board.name, name=name, figure=found
        )
    if board.tested:
        return say("Best of {n} on {set} is {name}: accuracy {figure}", n=n, set=board.name, name=name, figure=found)
    return say("Highest of {n} on {set} is {name}: accuracy {figure}", n=n, set=board.name, name=name, figure=found)


def _level(board: Board) -> list[str]:
    """Give what stands first, and what has the very same accuracy."""
    if board.ranking is not None:
        found = {name: float(board.ranking[name]["accuracy"]) for name in board.names}
    else:
        found = {row.name: _accuracy(row) for row in reversed(board.rows)}
    return [name for name in board.names if found[name] == found[board.names[0]]]


def _told_apart(board: Board, level: Sequence[str], ties: Sequence[str]) -> str:
    """Say from whom the best cannot be told, as the rest of a sentence; nothing of one that stands alone."""
    if len(board.names) == 1 or (len(level) > 1 and not ties):
        return ""
    if len(level) > 1:
        return "; " + say("not told apart from them: {others}", others=listed(ties))
    if board.tested and ties:
        return "; " + say("it is not told apart from {others}, so that they share first place", others=listed(ties))
    if board.tested:
        return "; " + say("it is told apart from all others")
    if ties:
        return "; " + say(
            "its interval overlaps with that of {others}, and no paired test has been made: which of them is better is "
            "not known",
            others=listed(ties),
        )
    return "; " + say("the intervals of all others lie below its own, though no paired test has been made")


def best_figure(board: Board) -> str:
    """Write the accuracy of what stands first: its run's own, or over its seeds as the ranking has it."""
    rows = [row for row in board.rows if row.name == board.rows[0].name]
    if len(rows) > 1 and board.ranking is not None:
        return figure(*(float(board.ranking[rows[0].name][key]) for key in ("accuracy", "low", "high")))
    metric = rows[0].metrics[0]
    return say("not known") if metric is None else written(metric)


def _board(study: Study, name: str, fingerprint: str, judged: dict[str, Saved]) -> Board:
    models = [model for model in study.runs if model.label in judged]
    ranking = _ranking(study, name, models)
    rows = _untested(models, name) if ranking is None else [_tested(model, ranking, name) for model in models]
    order = {entry: place for place, entry in enumerate(ranking or ())}
    rows.sort(key=lambda row: (order.get(row.name, 0), -_accuracy(row)))
    source = study.comparisons[name, "significance"] if ranking is not None else judged[rows[0].model.label]
    n = source.result.n
    return Board(name, fingerprint, n, rows, ranking is not None, ranking, source.metric("detectable_difference"))


def _ranking(study: Study, name: str, models: Sequence[Model]) -> Ranking | None:
    """Give the ranking that paired tests have made, None where it does not cover these runs."""
    saved = study.comparisons.get((name, "significance"))
    table = saved.result.tables.get("ranking") if saved else None
    if table is None or not set(_RANKING) <= set(table):
        return None
    found: Ranking = {str(row["recipe"]): {str(key): row[key] for key in row} for row in table.to_dict("records")}
    return found if all({model.recipe, model.label} & set(found) for model in models) else None


def _tested(model: Model, ranking: Ranking, name: str) -> Row:
    entry = model.recipe if model.recipe in ranking else model.label
    place = ranking[entry]
    first, last = (int(place[key]) for key in ("rank_low", "rank_high"))
    return Row(model, entry, first, last, str(place["letters"]), bool(place["tied_with_best"]), _metrics(model, name))


def _untested(models: Sequence[Model], name: str) -> list[Row]:
    """Rank by intervals that overlap, which is more cautious than a paired test and no substitute for one."""
    bounds = {model.label: _bounds(_metrics(model, name)[0]) for model in models}
    rows = []
    for model in models:
        mine = bounds[model.label]
        theirs = [other for label, other in bounds.items() if label != model.label and other is not None]
        first = None if mine is None else 1 + sum(low > mine[1] for low, _ in theirs)
        last = None if mine is None else 1 + sum(high >= mine[0] for _, high in theirs)
        rows.append(Row(model, model.label, first, last, "", first == 1, _metrics(model, name)))
    return rows


def _metrics(model: Model, name: str) -> tuple[Metric | None, ...]:
    found = (model.results.get((name, block)) for block, _ in COLUMNS)
    return tuple(saved.metric(metric) if saved else None for saved, (_, metric) in zip(found, COLUMNS, strict=True))


def _bounds(metric: Metric | None) -> tuple[float, float] | None:
    if metric is None or metric.value is None:
        return None
    return (metric.value if metric.low is None else metric.low, metric.value if metric.high is None else metric.high)


def _accuracy(row: Row) -> float:
    metric = row.metrics[0]
    return metric.value if metric is not None and metric.value is not None else -1.0
