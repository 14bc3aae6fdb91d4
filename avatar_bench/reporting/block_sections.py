"""Sections of the report, one per block, with its figures, tables and how to read them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from avatar_bench.i18n import _
from avatar_bench.reporting import definitions, report_text
from avatar_bench.reporting.captions import describe_figure, find_caption, order_figures
from avatar_bench.reporting.cautions import split_warnings
from avatar_bench.reporting.headings import find_heading, find_interval_name, find_table_title
from avatar_bench.reporting.number_format import make_metric_cell
from avatar_bench.reporting.page_links import PageLinks
from avatar_bench.reporting.saved_result import MAX_SHOWN_ROWS, SavedResult
from avatar_bench.reporting.saved_tables import RunStyles, lay_out, transpose
from avatar_bench.reporting.study import ReportedModel, Study
from avatar_bench.reporting.tables import Table, TableRow, fit_scale, make_column

REPORTED_METRICS = {  # metrics in the table of a block, as patterns; for other blocks the first metrics
    "blind_test": (
        *("accuracy", "accuracy_by_source", "balanced_accuracy", "macro_precision", "macro_f1", "mcc"),
        *("recall/*", "precision/*"),
    ),
    "robustness": ("*",),  # means, clean, and every corruption
    "calibration": ("ece_15", "ece_floor", "scaled/ece_15", "nll", "brier", "temperature", "aurc", "coverage/*"),
    "out_of_domain": ("auroc/*/energy", "accuracy/*", "mean_confidence/*"),
    "efficiency": (
        "latency_ms/b1",
        "images_per_second/b1",
        "end_to_end_images_per_second",
        "params_m",
        "peak_memory_mb",
    ),
    "prior_shift": ("accuracy/*", "macro_f1/*"),
}
_MAX_METRICS = 8  # metrics shown for a block without patterns
_MAIN_TABLES = (  # tables of comparisons that are open in the page and in print
    *("overview/runs", "significance/pairs", "ensemble_diversity/pairs", "cam_overlap/classes"),
    *("leave_one_source_out/summary", "shots/curve", "transformers/recipes", "transformers/pairs"),
)
_WIDE, _FEW = 10, 9  # a table with more columns is transposed if it has so few rows
_COLUMNS = {  # columns shown of wide tables; the CSV has all
    "significance/pairs": (
        "a",
        "b",
        "difference",
        "p_holm",
        "significant",
        "n_required",
        "only_a_correct",
        "only_b_correct",
    ),
    "ensemble_diversity/pairs": ("a", "b", "agreement", "kappa", "q_statistic", "double_fault", "error_correlation"),
    "transformers/recipes": (
        *(
            "recipe",
            "family",
            "start",
            "trained_with",
            "sam",
            "seeds",
            "params_m",
            "accuracy",
            "macro_f1",
            "ece",
            "robustness",
        ),
        *("latency_ms", "peak_memory_mb", "train_seconds", "passes_per_step"),
    ),
    "transformers/pairs": (
        *("changed", "a", "b", "epochs"),
        *("difference", "low", "high", "p_holm", "significant", "detectable"),
    ),
    "transformers/study": (
        *("block", "network", "reported_accuracy", "reported_params_m", "reported_seconds"),
        *("recipe", "accuracy", "accuracy_low", "accuracy_high", "params_m", "seconds", "reason", "where"),
    ),
    "transformers/history": (
        "network",
        "year",
        "published_top1",
        "published_params_m",
        "training",
        "citation",
        "paper",
    ),
    "ensemble/strategies": ("strategy", "members", "accuracy", "macro_f1", "gain", "gain_macro_f1", "nll", "ece"),
}


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
    blocks = report_text.order_blocks({block for __, block in study.comparisons}, report_text.COMPARISONS)
    return [_build_section(block, _build_comparison_parts(study, block, links, styles)) for block in blocks]


def build_run_sections(study: Study, links: PageLinks, styles: RunStyles) -> list[BlockSection]:
    """Return a section for each block that evaluates one run, with all models side by side."""
    blocks = report_text.order_blocks(
        {block for model in study.models for __, block in model.results}, report_text.BLOCKS
    )
    return [_build_section(block, _build_run_parts(study, block, links, styles)) for block in blocks]


def _build_section(block: str, parts: Iterable[SetSection]) -> BlockSection:
    return BlockSection(
        block,
        report_text.find_title(block),
        report_text.find_reading(block),
        definitions.find_definitions(block),
        list(parts),
    )


def build_metric_table(model: ReportedModel) -> Table:
    """Return a table of all metrics of a model, one row per metric."""
    columns = [
        *(
            make_column(_("metric")),
            make_column(_("block")),
            make_column(_("set")),
            make_column(_("value"), True, bars=False),
        ),
        *(make_column("n", True), make_column(_("unit")), make_column(_("interval")), make_column(_("better"))),
    ]
    better = {True: _("high"), False: _("low"), None: ""}
    rows = [
        TableRow(
            [
                name,
                block,
                of,
                make_metric_cell(metric),
                metric.n,
                find_heading(metric.unit),
                find_interval_name(metric),
                better[metric.higher_is_better],
            ]
        )
        for (of, block), saved in model.results.items()
        for name, metric in saved.result.metrics.items()
    ]
    return Table(f"metrics_{model.label}", _("All metrics of {model}", model=model.label), columns, rows)


def _build_comparison_parts(study: Study, block: str, links: PageLinks, styles: RunStyles) -> Iterator[SetSection]:
    for name in study.sets:
        saved = study.comparisons.get((name, block))
        if saved is None:
            continue
        addresses = links.link_files(saved)
        warnings, not_evaluated = split_warnings(study, saved)
        part = SetSection(name, warnings=warnings, not_evaluated=not_evaluated)
        tables = [*_build_saved_tables(saved, addresses, part, styles), _build_all_metrics_table(saved)]
        part.tables = sorted(tables, key=lambda table: not table.main)
        part.figures = {
            figure: [_build_figure(saved, figure, addresses, "")] for figure in order_figures(block, saved.figures)
        }
        yield part


def _build_run_parts(study: Study, block: str, links: PageLinks, styles: RunStyles) -> Iterator[SetSection]:
    for name in study.sets:
        found = study.of_block(name, block)
        if not found:
            continue
        part = SetSection(name)
        addresses = {label: links.link_files(saved) for label, saved in found.items()}
        for fingerprint in dict.fromkeys(saved.fingerprint for saved in found.values()):
            same = {label: saved for label, saved in found.items() if saved.fingerprint == fingerprint}
            part.tables.append(
                _build_side_by_side_table(same, block, name, fingerprint if len(same) < len(found) else "", styles)
            )
        figures = {figure for saved in found.values() for figure in saved.figures}
        for figure in order_figures(block, figures):
            owners = [(label, saved) for label, saved in found.items() if figure in saved.figures]
            part.figures[figure] = [_build_figure(saved, figure, addresses[label], label) for label, saved in owners]
        part.folders = [
            (_("{model}: {folder} ({n} files)", model=label, folder=folder, n=n), links.link(saved.folder / folder))
            for label, saved in found.items()
            for folder, n in saved.image_folders.items()
        ]
        yield part


def _build_side_by_side_table(
    found: dict[str, SavedResult], block: str, name: str, fingerprint: str, styles: RunStyles
) -> Table:
    """Return a table of the main metrics of a block, one row per model."""
    metrics = _select_metrics(block, [saved.result.metrics for saved in found.values()])
    columns = [make_column(_("model"))]
    for metric in metrics:
        better = next((m.higher_is_better for s in found.values() if (m := s.metric(metric)) is not None), None)
        direction = {True: "higher", False: "lower", None: None}[better]
        columns.append(make_column(find_heading(metric), True, direction, key=metric))
    rows = []
    for label, saved in found.items():
        cells = [make_metric_cell(saved.metric(metric)) for metric in metrics]
        earlier = saved.result.provenance.get("against")
        beside = {"soft": _("compared with {place}", place=earlier)} if earlier else {}
        rows.append(TableRow([{"text": label, **styles[label], **beside}, *cells], label))
    fit_scale(columns[1:], [TableRow(row.cells[1:]) for row in rows])
    n = next(iter(found.values())).result.n
    text = _("Main metrics on {set}, {n} images", set=name, n=n)
    if fingerprint:
        text = _("{images}, only fingerprint {fingerprint}", images=text, fingerprint=fingerprint)
    return Table(f"{block}_{name}_{fingerprint}".rstrip("_"), text, columns, rows)


def _select_metrics(block: str, found: Sequence[dict[str, Any]]) -> list[str]:
    """Return the names of the main metrics of a block, in the order of its patterns."""
    names = list(dict.fromkeys(name for metrics in found for name in metrics))
    patterns = REPORTED_METRICS.get(block)
    if patterns is None:
        return names[:_MAX_METRICS]
    chosen = (name for pattern in patterns for name in names if fnmatchcase(name, pattern))
    return (
        list(dict.fromkeys(name for name in chosen if name.count("/") == _count_levels(patterns, name)))
        or names[:_MAX_METRICS]
    )


def _count_levels(patterns: Iterable[str], name: str) -> int:
    """Return the number of slashes in the pattern that matches a name: `*` must not match further levels."""
    return next(pattern.count("/") for pattern in patterns if fnmatchcase(name, pattern))


def _build_all_metrics_table(saved: SavedResult) -> Table:
    result = saved.result
    columns = [
        make_column(_("metric")),
        make_column(_("value"), True),
        make_column("n", True),
        make_column(_("unit")),
        make_column(_("interval")),
    ]
    rows = [
        TableRow([name, make_metric_cell(one), one.n, find_heading(one.unit), find_interval_name(one)])
        for name, one in result.metrics.items()
    ]
    fit_scale(columns[1:2], [TableRow(row.cells[1:2]) for row in rows])
    text = _("All metrics on {set}", set=result.set)
    return Table(f"{result.block}_{result.set}", text, columns, rows)


def _build_saved_tables(
    saved: SavedResult, addresses: dict[str, str], part: SetSection, styles: RunStyles
) -> Iterator[Table]:
    """Yield the short tables of a comparison, and add links to the long ones."""
    block, of = saved.result.block, saved.result.set
    for name, table in saved.result.tables.items():
        href = addresses.get(f"{name}.csv")
        if not len(table):
            continue
        if len(table) <= MAX_SHOWN_ROWS:
            text = _("{table}, on {set}", table=find_table_title(block, name) or find_caption(block, name), set=of)
            only = _COLUMNS.get(f"{block}/{name}", ())
            shown = lay_out(table, f"{block}_{of}_{name}", text, styles, only)
            shown.href, shown.notes = href, _("The CSV has more columns.") if only else None
            shown = transpose(shown) if len(shown.columns) > _WIDE and len(shown.rows) <= _FEW else shown
            shown.main = f"{block}/{name}" in _MAIN_TABLES
            yield shown
        elif href:
            part.links.append((f"{name}.csv", href))


def _build_figure(saved: SavedResult, figure: str, addresses: dict[str, str], label: str) -> ReportFigure:
    alt = describe_figure(saved.result, figure, label)
    png, svg = addresses.get(f"{figure}.png"), addresses.get(f"{figure}.svg")
    text = label or find_caption(saved.result.block, figure)
    return ReportFigure(saved.folder / f"{figure}.png", alt, text, png, svg, label or None)
