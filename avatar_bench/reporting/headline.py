"""Headline of a leaderboard: the best model, its ties, and the models no better than guessing."""

from __future__ import annotations

from collections.abc import Sequence

from avatar_bench.i18n import _
from avatar_bench.metrics.rounding import format_number
from avatar_bench.reporting.leaderboard import Leaderboard, LeaderboardRow
from avatar_bench.reporting.number_format import format_metric_with_units, format_names
from avatar_bench.results.headings import find_heading


def format_headline(board: Leaderboard) -> str:
    """Return up to three sentences: the best model on a set, its ties, and the models no better than guessing."""
    able = [name for name in board.names if name not in board.guessing]
    sentences = [f"{_describe_best(board, able) if able else _describe_guessing(board)}."]
    if able and board.guessing:
        sentences.append(_("Not significantly better than guessing: {names}.", names=format_names(board.guessing)))
    if unread := [entry for entry in board.ranking or () if entry not in board.names]:
        sentences.append(_("Left out, without a usable accuracy: {names}.", names=format_names(unread)))
    return " ".join(sentences)


def _describe_guessing(board: Leaderboard) -> str:
    """Return that no model is better than guessing, with the highest balanced accuracy and the level of guessing."""
    best = max(board.names, key=lambda name: _find_value(board, name, "balanced_accuracy"))
    metric = _find_row(board, best).metrics["balanced_accuracy"]
    level = format_number(metric.floor) if metric is not None and metric.floor is not None else _("not known")
    shown = _format_value(board, best, "balanced_accuracy")
    if len(board.names) == 1:
        return _(
            "{name} on {set} is not significantly better than guessing: its balanced accuracy is {figure}, guessing "
            "has {level}",
            name=best,
            set=board.name,
            figure=shown,
            level=level,
        )
    return _(
        "None of {n} models on {set} is significantly better than guessing: the highest balanced accuracy is {figure} "
        "({name}), guessing has {level}",
        n=len(board.names),
        set=board.name,
        name=best,
        figure=shown,
        level=level,
    )


def _describe_best(board: Leaderboard, able: Sequence[str]) -> str:
    values = {name: _find_value(board, name, board.ranked_by) for name in able}
    level = [name for name in able if values[name] == values[able[0]]]
    best = {row.name for row in board.rows if row.is_best}
    ties = [name for name in able if name in best and name not in level]
    return _describe_first(board, level, ties) + _describe_ties(board, level, ties)


def _describe_first(board: Leaderboard, level: Sequence[str], ties: Sequence[str]) -> str:
    name, n, where = format_names(level), len(board.names), board.name
    metric, found = find_heading(board.ranked_by, "blind_test"), _format_value(board, level[0], board.ranked_by)
    if n == 1:
        return _("{name} on {set}: {metric} {figure}", name=name, set=where, metric=metric, figure=found)
    if len(level) > 1:
        return _(
            "{name} share the highest {metric} of {n} models on {set}: {figure}",
            name=name,
            metric=metric,
            n=n,
            set=where,
            figure=found,
        )
    if board.is_tested and not ties:
        return _(
            "{name} is the best of {n} models on {set}: {metric} {figure}",
            name=name,
            n=n,
            set=where,
            metric=metric,
            figure=found,
        )
    return _(
        "{name} has the highest {metric} of {n} models on {set}: {figure}",
        name=name,
        metric=metric,
        n=n,
        set=where,
        figure=found,
    )


def _describe_ties(board: Leaderboard, level: Sequence[str], ties: Sequence[str]) -> str:
    """Return the ties with the best model, as the rest of a sentence; "" without another model."""
    others = [name for name in board.names if name not in board.guessing and name not in level]
    if not others or (len(level) > 1 and not ties):
        return ""
    # a paired test compares accuracy only
    untested = ", " + _("but no paired test was run") if board.ranked_by == "accuracy" else ""
    if len(level) > 1 and board.is_tested:
        return "; " + _("statistically tied with them: {others}", others=format_names(ties))
    if len(level) > 1:
        return "; " + _("their intervals overlap with that of {others}", others=format_names(ties)) + untested
    if board.is_tested and ties:
        return "; " + _("it is statistically tied with {others}", others=format_names(ties))
    rest = format_names(others) if board.guessing else _("all others")
    if board.is_tested:
        return "; " + _("it is significantly better than {others}", others=rest)
    if ties:
        return "; " + _("its interval overlaps with that of {others}", others=format_names(ties)) + untested
    return "; " + _("its interval is above that of {others}", others=rest) + untested


def _format_value(board: Leaderboard, name: str, metric: str = "accuracy") -> str:
    found = _find_row(board, name).metrics[metric]
    return _("not known") if found is None else format_metric_with_units(found, board.blocks[metric])


def _find_value(board: Leaderboard, name: str, metric: str = "accuracy") -> float:
    place = (board.ranking or {}).get(name, {})
    if metric in place:
        return float(place[metric])
    found = _find_row(board, name).metrics[metric]
    return -1.0 if found is None or found.value is None else found.value


def _find_row(board: Leaderboard, name: str) -> LeaderboardRow:
    """Return the row of a ranked run or recipe: the first of its name."""
    return next(row for row in board.rows if row.name == name)
