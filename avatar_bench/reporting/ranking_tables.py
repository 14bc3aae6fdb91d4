"""Leaderboards, integrated scores and ensemble gains as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from avatar_bench.i18n import _
from avatar_bench.metrics.rounding import format_number
from avatar_bench.metrics.units import NEW_SOURCES, THESE_IMAGES, THESE_SOURCES
from avatar_bench.reporting.leaderboard import Leaderboard, LeaderboardRow
from avatar_bench.reporting.number_format import Cell, make_interval_cell, make_metric_cell
from avatar_bench.reporting.page_links import PageLinks
from avatar_bench.reporting.saved_result import SavedResult
from avatar_bench.reporting.saved_tables import RunStyles, lay_out
from avatar_bench.reporting.study import Study
from avatar_bench.reporting.tables import BETTER, Table, TableRow, fit_ends, make_column
from avatar_bench.results.headings import find_heading
from avatar_bench.results.result import Metric

SCORE_COLUMNS = ("run", "complete", "score", "rank", "share_first", "pareto", "missing")  # columns on the first screen
GAIN_COLUMNS = ("strategy", "members", "accuracy", "macro_f1", "gain")


def build_leaderboard_table(board: Leaderboard, styles: RunStyles) -> Table:
    """Return a leaderboard as a table: one row per model with its rank and ties or a reason, and main metrics."""
    columns = [make_column(_("model")), make_column(_("rank"), True, "lower")]
    keys = [key for key in board.blocks if any(row.metrics.get(key) for row in board.rows)]
    for key in keys:
        known = next(metric for row in board.rows if (metric := row.metrics.get(key)) is not None)
        heading = find_heading(key, board.blocks[key])
        columns.append(make_column(heading, True, BETTER[known.higher_is_better], key=key))
    rows = [_build_row(row, {key: board.blocks[key] for key in keys}, styles[row.model.label]) for row in board.rows]
    ranked = [metric for row in board.rows if (metric := row.metrics.get(board.ranked_by)) is not None]
    if any(metric.these_sources for metric in ranked):
        heading = find_heading(board.ranked_by, board.blocks[board.ranked_by])
        columns.append(make_column(_("{metric}, for these sources", metric=heading), True))
        for row, shown in zip(board.rows, rows, strict=True):
            shown.cells.append(_make_cell_of_these(row.metrics.get(board.ranked_by)))
    for one in columns:
        one["bars"] = False
    if len(columns) > 2:  # one drawing per row shows the order
        columns[2] |= fit_ends(row.cells[2] for row in rows)
    text = _(
        "Leaderboard on {set}: {n} images, fingerprint {fingerprint}",
        set=board.name,
        n=board.n,
        fingerprint=board.fingerprint,
    )
    table = Table(f"leaderboard_{board.name}_{board.fingerprint}", text, columns, rows, compact=True)
    notes = [_describe_population(ranked)]
    if board.ranked_by == "balanced_accuracy":
        notes.append(
            _(
                "Ranked by balanced accuracy: the view merges classes, which are then unequal in size. Ranks are the "
                "ranges that overlapping intervals allow; paired tests, in the block significance, compare accuracy."
            )
        )
    table.notes = " ".join(filter(None, notes)) or None
    return table


def _describe_population(ranked: Sequence[Metric]) -> str:
    """Return for which population the intervals and ties of a leaderboard speak; "" if none states it."""
    populations = {metric.population for metric in ranked}
    if populations == {NEW_SOURCES}:
        return _("Intervals and ties are for new sources: whole sources are resampled, within each class.")
    if populations == {THESE_SOURCES}:
        return _("Intervals and ties are for new images of these sources.")
    return (
        _("Intervals and ties are for these images: their sources are unknown.") if THESE_IMAGES in populations else ""
    )


def _make_cell_of_these(metric: Metric | None) -> Cell | None:
    """Return the value of a metric with its interval for these sources; None without one."""
    if metric is None or metric.value is None or metric.these_sources is None:
        return None
    return make_interval_cell(metric.value, *(float(metric.these_sources[end]) for end in ("low", "high")))


def build_score_tables(study: Study, links: PageLinks, styles: RunStyles) -> Iterator[Table]:
    """Yield the table of integrated scores of each set, as ranked by the block; incomplete rows have no rank."""
    for name in study.sets:
        title = _("Integrated score on {set}", set=name)
        if saved := study.comparisons.get((name, "integrated_score")):
            yield from _lay_out_saved(saved, "scores", title, SCORE_COLUMNS, links, styles)


def build_gain_tables(study: Study, links: PageLinks, styles: RunStyles) -> Iterator[Table]:
    """Yield the table of ensemble gains on each set, as measured by the block ensemble."""
    for name in study.sets:
        title = _("Gain of ensembles on {set}", set=name)
        notes = _("The gain is relative to the single model chosen on val.")
        if saved := study.comparisons.get((name, "ensemble")):
            yield from _lay_out_saved(saved, "strategies", title, GAIN_COLUMNS, links, styles, notes)


def _lay_out_saved(
    saved: SavedResult, name: str, title: str, only: Sequence[str], links: PageLinks, styles: RunStyles, notes: str = ""
) -> Iterator[Table]:
    """Yield a table of a saved comparison, if it has one of this name."""
    table, result = saved.result.tables.get(name), saved.result
    if table is not None:
        shown = lay_out(table, result.block, f"{name}_{result.set}", title, styles, only)
        shown.href, shown.notes = links.link_files(saved).get(name), notes or None
        yield shown


def _build_row(row: LeaderboardRow, blocks: Mapping[str, str], look: Mapping[str, str]) -> TableRow:
    label: Cell = {"text": row.name if row.seeds else row.model.label, **look}
    if row.seeds:
        label["soft"] = _("mean over {n} seeds, below", n=len(row.seeds))
    elif row.model.kind != "run":
        label["soft"] = _("weight soup") if row.model.kind == "soup" else _("ensemble")
    elif row.model.is_imported:
        kind, licence, training = row.model.describe_origin()
        size = (row.model.record.get("detector") or {}).get("parameters")
        parts = [kind, licence, _("{number} M parameters", number=format_number(size / 1e6)) if size else ""]
        label["soft"] = ", ".join(filter(None, [*parts, f"{_('training data')}: {training}"]))
    elif row.model.teacher:
        label["soft"] = _("teacher: {name}", name=row.model.teacher)
    rank: Cell | None = None
    if row.is_guessing or row.reason:
        rank = {"value": None, "reason": row.reason or _("not significantly better than guessing")}
    elif row.first is not None:
        rank = {"first": row.first, "last": row.last, "letters": row.letters}
    cells = [make_metric_cell(row.metrics.get(key), block) for key, block in blocks.items()]
    return TableRow([label, rank, *cells], list(row.seeds) or row.model.label, row.is_best)
