"""Sections of the report, one per block, with its figures, tables and how to read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from avatar_bench.i18n import _
from avatar_bench.reporting.saved_result import MAX_SHOWN_ROWS, SavedResult
from avatar_bench.reporting.study import Study
from avatar_bench.reporting.tables import (
    Table,
    TableRow,
    drop_repeated,
    fit_scale,
    format_metric,
    lay_out,
    make_column,
    make_columns,
    make_metric_cell,
    make_metric_column,
    transpose,
)
from avatar_bench.results.declaration import Declaration, TableDeclaration, find_heading, find_interval_name, find_word
from avatar_bench.results.reasons import format_reason
from avatar_bench.results.result import Metric, Result

_MAX_METRICS = 8  # metrics shown for a block without patterns
_SCORE_COLUMNS = ("run", "complete", "score", "rank", "share_first", "pareto", "missing")  # on the first screen
_GAIN_COLUMNS = ("strategy", "members", "accuracy", "macro_f1", "gain")
_WIDE, _FEW = 10, 9  # a table with more columns is transposed if it has so few rows


@dataclass
class ReportFigure:
    """Figure in the report: file, alternative text, caption, links, and its model."""

    file: Path
    alt: str
    caption: str
    png: str | None
    svg: str | None
    model: str | None = None


@dataclass
class SetSection:
    """Results of a block on one set: tables, figures by name, and links to longer tables and folders of images."""

    name: str
    tables: list[Table] = field(default_factory=list)
    figures: dict[str, list[ReportFigure]] = field(default_factory=dict)
    links: list[tuple[str, str]] = field(default_factory=list)
    folders: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    not_evaluated: list[str] = field(default_factory=list)


def build_sections(study: Study, compares: bool) -> list[tuple[Declaration, list[SetSection]]]:
    """Return the sections of blocks that compare runs, or that evaluate one, with all models side by side."""
    build = _build_comparison_parts if compares else _build_run_parts
    return [(block, list(build(study, block))) for block in study.list_blocks(compares)]


def build_summary_tables(study: Study) -> Iterator[Table]:
    """Yield what the first screen shows besides leaderboards: integrated scores, then gains of ensembles."""
    note = _("The gain is relative to the single model chosen on val.")
    for block, name, title, columns, notes in (
        ("integrated_score", "scores", _("Integrated score on {set}"), _SCORE_COLUMNS, None),
        ("ensemble", "strategies", _("Gain of ensembles on {set}"), _GAIN_COLUMNS, note),
    ):
        for of in study.sets:
            saved = study.comparisons.get((of, block))
            if saved is not None and (table := saved.result.tables.get(name)) is not None:
                shown = lay_out(table, block, f"{name}_{of}", title.format(set=of), study.styles, columns)
                shown.href, shown.notes = study.link_files(saved).get(name), notes
                yield shown


def build_metric_table(name: str, caption: str, results: Sequence[Result], of_model: bool = False) -> Table:
    """Return a table of all metrics of results, one row per metric; those of a model are of several blocks and sets."""
    better = {True: _("high"), False: _("low"), None: ""}
    texts = [_("value"), "n", _("interval"), _("units"), _("population")]
    if of_model:
        texts = [_("block"), _("set"), *texts, _("better")]
    columns = make_columns(_("metric"), *texts, numbers=(_("value"), "n"))
    rows = []
    for result in results:
        for key, metric in result.metrics.items():
            cells = [make_metric_cell(metric, result.block), metric.n, *_describe_interval(metric)]
            if of_model:
                cells = [result.block, result.set, *cells, better[metric.higher_is_better]]
            rows.append(TableRow([key, *cells]))
    if of_model:
        columns[3]["bars"] = False
    else:
        fit_scale(columns, rows)
    return Table(name, caption, columns, rows)


def select_metrics(block: Declaration, metric_sets: Sequence[dict[str, Any]]) -> list[str]:
    """Return the names of the main metrics of a block, in the order of its patterns."""
    names = list(dict.fromkeys(name for metrics in metric_sets for name in metrics))
    first: dict[str, str] = {}  # pattern of each name
    for pattern in block.metrics:
        first |= {name: pattern for name in names if name not in first and fnmatchcase(name, pattern)}
    # `*` must not match further levels
    return [name for name, pattern in first.items() if name.count("/") == pattern.count("/")] or names[:_MAX_METRICS]


def _build_comparison_parts(study: Study, block: Declaration) -> Iterator[SetSection]:
    for name in study.sets:
        if (saved := study.comparisons.get((name, block.name))) is None:
            continue
        warnings, not_evaluated = study.split_warnings(saved)
        part = SetSection(name, warnings=warnings, not_evaluated=not_evaluated)
        text = _("All metrics on {set}", set=name)
        tables = [
            *_build_saved_tables(study, saved, part),
            build_metric_table(f"{block.name}_{name}", text, [saved.result]),
        ]
        part.tables = sorted(tables, key=lambda table: not table.main)
        part.figures = _build_figures(study, block, {"": saved})
        yield part


def _build_run_parts(study: Study, block: Declaration) -> Iterator[SetSection]:
    for name in study.sets:
        if not (by_model := study.of_block(name, block.name)):
            continue
        part = SetSection(name, figures=_build_figures(study, block, by_model))
        groups = study.group_by_images(name, block.name)
        for same in groups:
            fingerprint = next(iter(same.values())).fingerprint if len(groups) > 1 else ""
            part.tables.append(_build_side_by_side_table(study, same, block, name, fingerprint))
        part.notes = [
            f"{label}: {format_reason(note, block.name)}"
            for label, saved in by_model.items()
            for note in saved.result.notes
        ]
        part.folders = [
            (_("{model}: {folder} ({n} files)", model=label, folder=folder, n=n), study.link(saved.folder / folder))
            for label, saved in by_model.items()
            for folder, n in saved.image_folders.items()
        ]
        yield part


def _build_side_by_side_table(
    study: Study, results: dict[str, SavedResult], block: Declaration, name: str, fingerprint: str
) -> Table:
    by_model = {label: saved.result.metrics for label, saved in results.items()}
    metrics = drop_repeated(select_metrics(block, list(by_model.values())), list(by_model.values()))
    columns = [make_column(_("model"))]
    columns += [make_metric_column(key, block.name, (known.get(key) for known in by_model.values())) for key in metrics]
    rows = []
    for label, saved in results.items():
        cells = [make_metric_cell(by_model[label].get(key), block.name) for key in metrics]
        earlier = saved.result.provenance.get("against")
        beside = {"soft": _("compared with {place}", place=earlier)} if earlier else {}
        rows.append(TableRow([{"text": label, **study.styles[label], **beside}, *cells], label))
    fit_scale(columns, rows)
    text = _("Main metrics on {set}, {n} images", set=name, n=next(iter(results.values())).result.n)
    if fingerprint:
        text = _("{images}, only fingerprint {fingerprint}", images=text, fingerprint=fingerprint)
    return Table(f"{block.name}_{name}_{fingerprint}".rstrip("_"), text, columns, rows)


def _describe_interval(metric: Metric) -> list[str]:
    """Return the method of a metric's interval, its number of units, and the population, as text."""
    if not metric.interval:
        return ["", "", ""]
    stated = metric.inference
    population = find_word(str(stated["population"])) if stated["population"] else ""
    return [find_interval_name(metric), f"{stated['units']} ({find_heading(stated['unit'])})", population]


def _build_saved_tables(study: Study, saved: SavedResult, part: SetSection) -> Iterator[Table]:
    """Yield the short tables of a comparison, and add links to the long ones."""
    block, of, links = saved.result.block, saved.result.set, study.link_files(saved)
    for name, table in saved.result.tables.items():
        href = links.get(name)
        if not len(table):
            continue
        if len(table) <= MAX_SHOWN_ROWS:
            declared = saved.declaration.tables.get(name, TableDeclaration())
            title = _(declared.title) if declared.title else saved.declaration.find_caption(name)
            text = _("{table}, on {set}", table=title, set=of)
            shown = lay_out(table, block, f"{block}_{of}_{name}", text, study.styles, declared.columns)
            shown.href, shown.notes = href, _("The CSV has more columns.") if declared.columns else None
            shown = transpose(shown) if len(shown.columns) > _WIDE and len(shown.rows) <= _FEW else shown
            shown.main = declared.open
            yield shown
        elif href:
            part.links.append((href.rpartition("/")[2], href))


def _build_figures(study: Study, block: Declaration, by_model: dict[str, SavedResult]) -> dict[str, list[ReportFigure]]:
    """Return the figures of results by name, in reading order; the label of a comparison is ""."""
    figures: dict[str, list[ReportFigure]] = {}
    for name in block.order_figures({name for saved in by_model.values() for name in saved.result.figures}):
        caption = block.find_caption(name)
        for label, saved in by_model.items():
            if name not in saved.result.figures:
                continue
            text = _("{what}, {model}, on {set}.") if label else _("{what}, all models, on {set}.")
            alt = text.format(what=caption, model=label, set=saved.result.set)
            for key, metric in list(saved.result.metrics.items())[:1]:
                alt += f" {find_heading(key, block.name)}: {format_metric(metric, block.name)}."
            stem = saved.find_figure(name)
            png, svg = (Path(f"{stem}{suffix}") for suffix in (".png", ".svg"))
            png_link, svg_link = (study.link(file) if file.is_file() else None for file in (png, svg))
            figure = ReportFigure(png, alt, label or caption, png_link, svg_link, label or None)
            figures.setdefault(name, []).append(figure)
    return figures
