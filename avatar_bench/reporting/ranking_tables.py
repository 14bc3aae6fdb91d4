"""Standings: leaderboards and integrated scores as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from avatar_bench.i18n import _
from avatar_bench.reporting.headings import heading
from avatar_bench.reporting.leaderboard import COLUMNS, Board
from avatar_bench.reporting.leaderboard import Row as Place
from avatar_bench.reporting.number_format import Cell, metric_cell
from avatar_bench.reporting.page_links import Files
from avatar_bench.reporting.saved_tables import Looks, lay_out
from avatar_bench.reporting.study import Study
from avatar_bench.reporting.tables import Row, Table, column, fit_scale

SCORES = ("run", "complete", "score", "rank", "share_first", "pareto", "missing")  # columns of the first screen
GAINS = ("strategy", "members", "accuracy", "macro_f1", "gain")
_BETTER = {True: "higher", False: "lower", None: None}


def board_table(board: Board, looks: Looks) -> Table:
    """Return a board as a table: a row a model, its rank with ties, or why it has none, and its main metrics."""
    columns = [column(_("model")), column(_("rank"), True, "lower")]
    kept = [key for key in COLUMNS if any(row.metrics[key] for row in board.rows)]
    for key in kept:
        known = next(metric for row in board.rows if (metric := row.metrics[key]) is not None)
        columns.append(column(heading(key), True, _BETTER[known.higher_is_better], key=key))
    rows = [_row(row, kept, looks[row.model.label]) for row in board.rows]
    fit_scale(columns[2:], [Row(row.cells[2:]) for row in rows])
    for one in columns[3:]:
        one["bars"] = False  # one drawing a row is enough to see the order
    text = _(
        "Leaderboard on {set}: {n} images, fingerprint {fingerprint}",
        set=board.name,
        n=board.n,
        fingerprint=board.fingerprint,
    )
    return Table(f"leaderboard_{board.name}_{board.fingerprint}", text, columns, rows, compact=True)


def score_tables(study: Study, files: Files, looks: Looks) -> list[Table]:
    """Give the integrated scores of each set, as the block has ranked them; incomplete rows have no rank."""
    found = []
    for name in study.sets:
        saved = study.comparisons.get((name, "integrated_score"))
        table = saved.result.tables.get("scores") if saved else None
        if saved is not None and table is not None:
            shown = lay_out(table, f"scores_{name}", _("Integrated score on {set}", set=name), looks, SCORES)
            shown.href = files.of(saved).get("scores.csv")
            found.append(shown)
    return found


def gain_tables(study: Study, files: Files, looks: Looks) -> list[Table]:
    """Give what each way of combining models gains on each set, as the block ensemble has measured it."""
    found = []
    for name in study.sets:
        saved = study.comparisons.get((name, "ensemble"))
        table = saved.result.tables.get("strategies") if saved else None
        if saved is not None and table is not None:
            shown = lay_out(table, f"gain_{name}", _("What combining gains on {set}", set=name), looks, GAINS)
            shown.href = files.of(saved).get("strategies.csv")
            shown.notes = _("The gain is over the single model that val would have chosen.")
            found.append(shown)
    return found


def _row(place: Place, kept: Sequence[str], look: Mapping[str, str]) -> Row:
    label: Cell = {"text": place.model.label, **look}
    if place.model.kind != "run":
        label["soft"] = _("soup of weights") if place.model.kind == "soup" else _("ensemble")
    rank: Cell | None = None
    if place.guesses or place.reason:
        rank = {"value": None, "reason": _("no better than guessing") if place.guesses else place.reason}
    elif place.first is not None:
        rank = {"first": place.first, "last": place.last, "letters": place.letters}
    return Row([label, rank, *(metric_cell(place.metrics[key]) for key in kept)], place.model.label, place.best)
