"""Sections of the report, one per block, with its figures, tables and how to read them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from avatar_bench.i18n import _
from avatar_bench.reporting.cautions import split_warnings
from avatar_bench.reporting.number_format import format_metric, make_metric_cell
from avatar_bench.reporting.page_links import PageLinks
from avatar_bench.reporting.saved_result import MAX_SHOWN_ROWS, SavedResult
from avatar_bench.reporting.saved_tables import RunStyles, lay_out, transpose
from avatar_bench.reporting.study import ReportedModel, Study
from avatar_bench.reporting.tables import BETTER, Table, TableRow, fit_scale, make_column
from avatar_bench.results.declaration import Declaration, TableDeclaration, declare_block
from avatar_bench.results.headings import find_heading, find_interval_name, find_word
from avatar_bench.results.result import Metric

_MAX_METRICS = 8  # metrics shown for a block without patterns
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
    warnings: list[str] = field(default_factory=list)
    not_evaluated: list[str] = field(default_factory=list)


@dataclass
class BlockSection:
    """Section of a block: title, how to read it, definitions, and one part per set."""

    block: str
    title: str
    reading: str
    terms: list[tuple[str, str]]
    parts: list[SetSection]


def build_comparison_sections(study: Study, links: PageLinks, styles: RunStyles) -> list[BlockSection]:
    """Return a section for each block that compares runs."""
    return [
        _build_section(one, _build_comparison_parts(study, one, links, styles))
        for one in _order_blocks({block for __, block in study.comparisons})
    ]


def build_run_sections(study: Study, links: PageLinks, styles: RunStyles) -> list[BlockSection]:
    """Return a section for each block that evaluates one run, with all models side by side."""
    return [
        _build_section(one, _build_run_parts(study, one, links, styles))
        for one in _order_blocks({block for model in study.models for __, block in model.results})
    ]


def _order_blocks(blocks: Iterable[str]) -> list[Declaration]:
    return sorted(map(declare_block, blocks), key=lambda one: (one.order, one.name))


def _build_section(block: Declaration, parts: Iterable[SetSection]) -> BlockSection:
    reading = _(block.reading) if block.reading else _("The metrics are shown as the block saved them.")
    if not block.is_known:
        reading = _("This block is not installed here: add its folder, -cd DIR. Its metrics are as it saved them.")
    terms = [(_(term), _(meaning)) for term, meaning in block.terms.items()]
    return BlockSection(block.name, _(block.title), reading, terms, list(parts))


def build_metric_table(model: ReportedModel) -> Table:
    """Return a table of all metrics of a model, one row per metric."""
    columns = [make_column(text) for text in (_("metric"), _("block"), _("set"))]
    columns += [make_column(_("value"), True, bars=False), make_column("n", True)]
    columns += [make_column(text) for text in (_("interval"), _("units"), _("population"), _("better"))]
    better = {True: _("high"), False: _("low"), None: ""}
    rows = []
    for (of, block), saved in model.results.items():
        for name, metric in saved.result.metrics.items():
            cells = [name, block, of, make_metric_cell(metric, block), metric.n, *_make_unit_cells(metric)]
            rows.append(TableRow([*cells, better[metric.higher_is_better]]))
    return Table(f"metrics_{model.label}", _("All metrics of {model}", model=model.label), columns, rows)


def _build_comparison_parts(
    study: Study, block: Declaration, links: PageLinks, styles: RunStyles
) -> Iterator[SetSection]:
    for name in study.sets:
        saved = study.comparisons.get((name, block.name))
        if saved is None:
            continue
        addresses = links.link_files(saved)
        warnings, not_evaluated = split_warnings(study, saved)
        part = SetSection(name, warnings=warnings, not_evaluated=not_evaluated)
        tables = [*_build_saved_tables(saved, addresses, part, styles), _build_all_metrics_table(saved)]
        part.tables = sorted(tables, key=lambda table: not table.main)
        part.figures = {
            figure: [_build_figure(saved, figure, links, "")] for figure in block.order_figures(saved.result.figures)
        }
        yield part


def _build_run_parts(study: Study, block: Declaration, links: PageLinks, styles: RunStyles) -> Iterator[SetSection]:
    for name in study.sets:
        found = study.of_block(name, block.name)
        if not found:
            continue
        part = SetSection(name)
        for fingerprint in dict.fromkeys(saved.fingerprint for saved in found.values()):
            same = {label: saved for label, saved in found.items() if saved.fingerprint == fingerprint}
            part.tables.append(
                _build_side_by_side_table(same, block, name, fingerprint if len(same) < len(found) else "", styles)
            )
        figures = {figure for saved in found.values() for figure in saved.result.figures}
        for figure in block.order_figures(figures):
            owners = [(label, saved) for label, saved in found.items() if figure in saved.result.figures]
            part.figures[figure] = [_build_figure(saved, figure, links, label) for label, saved in owners]
        part.folders = [
            (_("{model}: {folder} ({n} files)", model=label, folder=folder, n=n), links.link(saved.folder / folder))
            for label, saved in found.items()
            for folder, n in saved.image_folders.items()
        ]
        yield part


def _build_side_by_side_table(
    found: dict[str, SavedResult], block: Declaration, name: str, fingerprint: str, styles: RunStyles
) -> Table:
    """Return a table of the main metrics of a block, one row per model."""
    metrics = select_metrics(block, [saved.result.metrics for saved in found.values()])
    columns = [make_column(_("model"))]
    for metric in metrics:
        known = next(one.result.metrics[metric] for one in found.values() if metric in one.result.metrics)
        heading = find_heading(metric, block.name)
        columns.append(make_column(heading, True, BETTER[known.higher_is_better], key=metric))
    rows = []
    for label, saved in found.items():
        cells = [make_metric_cell(saved.result.metrics.get(metric), block.name) for metric in metrics]
        earlier = saved.result.provenance.get("against")
        beside = {"soft": _("compared with {place}", place=earlier)} if earlier else {}
        rows.append(TableRow([{"text": label, **styles[label], **beside}, *cells], label))
    fit_scale(columns[1:], [TableRow(row.cells[1:]) for row in rows])
    n = next(iter(found.values())).result.n
    text = _("Main metrics on {set}, {n} images", set=name, n=n)
    if fingerprint:
        text = _("{images}, only fingerprint {fingerprint}", images=text, fingerprint=fingerprint)
    return Table(f"{block.name}_{name}_{fingerprint}".rstrip("_"), text, columns, rows)


def select_metrics(block: Declaration, found: Sequence[dict[str, Any]]) -> list[str]:
    """Return the names of the main metrics of a block, in the order of its patterns."""
    names = list(dict.fromkeys(name for metrics in found for name in metrics))
    first: dict[str, str] = {}  # pattern of each name
    for pattern in block.metrics:
        first |= {name: pattern for name in names if name not in first and fnmatchcase(name, pattern)}
    # `*` must not match further levels
    return [name for name, pattern in first.items() if name.count("/") == pattern.count("/")] or names[:_MAX_METRICS]


def _build_all_metrics_table(saved: SavedResult) -> Table:
    result = saved.result
    columns = [make_column(_("metric")), make_column(_("value"), True), make_column("n", True)]
    columns += [make_column(text) for text in (_("interval"), _("units"), _("population"))]
    rows = [
        TableRow([name, make_metric_cell(one, result.block), one.n, *_make_unit_cells(one)])
        for name, one in result.metrics.items()
    ]
    fit_scale(columns[1:2], [TableRow(row.cells[1:2]) for row in rows])
    text = _("All metrics on {set}", set=result.set)
    return Table(f"{result.block}_{result.set}", text, columns, rows)


def _make_unit_cells(metric: Metric) -> list[str]:
    """Return the method of a metric's interval, its number of units, and the population, as text."""
    if not metric.interval:
        return ["", "", ""]
    stated = metric.inference
    population = find_word(str(stated["population"])) if stated["population"] else ""
    return [find_interval_name(metric), f"{stated['units']} ({find_heading(stated['unit'])})", population]


def _build_saved_tables(
    saved: SavedResult, addresses: dict[str, str], part: SetSection, styles: RunStyles
) -> Iterator[Table]:
    """Yield the short tables of a comparison, and add links to the long ones."""
    block, of = saved.result.block, saved.result.set
    for name, table in saved.result.tables.items():
        href = addresses.get(name)
        if not len(table):
            continue
        if len(table) <= MAX_SHOWN_ROWS:
            declared = saved.declaration.tables.get(name, TableDeclaration())
            title = _(declared.title) if declared.title else saved.declaration.find_caption(name)
            text = _("{table}, on {set}", table=title, set=of)
            shown = lay_out(table, block, f"{block}_{of}_{name}", text, styles, declared.columns)
            shown.href, shown.notes = href, _("The CSV has more columns.") if declared.columns else None
            shown = transpose(shown) if len(shown.columns) > _WIDE and len(shown.rows) <= _FEW else shown
            shown.main = declared.open
            yield shown
        elif href:
            part.links.append((href.rpartition("/")[2], href))


def _build_figure(saved: SavedResult, figure: str, links: PageLinks, label: str) -> ReportFigure:
    """Return a figure; its alternative text is the caption, model, set, and main metric of its result."""
    result, stem, caption = saved.result, saved.find_figure(figure), saved.declaration.find_caption(figure)
    if label:
        alt = _("{what}, {model}, on {set}.", what=caption, model=label, set=result.set)
    else:
        alt = _("{what}, all models, on {set}.", what=caption, set=result.set)
    for name, metric in list(result.metrics.items())[:1]:
        alt += f" {find_heading(name, result.block)}: {format_metric(metric, result.block)}."
    png, svg = (Path(f"{stem}{suffix}") for suffix in (".png", ".svg"))
    png_link, svg_link = (links.link(file) if file.is_file() else None for file in (png, svg))
    return ReportFigure(png, alt, label or caption, png_link, svg_link, label or None)
