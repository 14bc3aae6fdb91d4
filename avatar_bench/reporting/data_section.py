"""Data section of the report: images by class, source and split, and the assessment of the audit."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from avatar_bench.audit.assessment import Assessment
from avatar_bench.audit.count_charts import draw_counts
from avatar_bench.evaluation.evaluation_log import LOG_FILE, count_evaluations, find_logs, list_external_sets
from avatar_bench.files.table_io import read_table
from avatar_bench.i18n import _, ngettext
from avatar_bench.metrics.plots import CHART
from avatar_bench.reporting.inline_images import QUALITY_STEPS, InlineImage, shrink
from avatar_bench.reporting.number_format import make_value_cell
from avatar_bench.reporting.saved_result import SavedResult
from avatar_bench.reporting.study import ReportedModel, Study
from avatar_bench.reporting.tables import Table, TableRow, make_column
from avatar_bench.results.result import Result


class CountChart(NamedTuple):
    """Chart of image counts in the page, with alternative text and caption."""

    image: InlineImage
    alt: str
    caption: str


_SPLIT_ORDER = ("train", "val", "calibration", "test")


def build_split_tables(study: Study) -> list[Table]:
    """Return tables of image counts by class, source and split; runs with the same split share tables."""
    tables = []
    for number, (fingerprint, names, table) in enumerate(_read_splits(study), start=1):
        tag = "" if number == 1 else f"_{number}"
        by_class = _("Images by class; split {fingerprint} of {models}", fingerprint=fingerprint, models=names)
        by_source = _(
            "Images by class and source; split {fingerprint} of {models}", fingerprint=fingerprint, models=names
        )
        tables.append(_build_count_table(table, ["label"], f"classes{tag}", by_class))
        if table["source"].fillna("").ne("").any():
            tables.append(_build_count_table(table, ["label", "source"], f"sources{tag}", by_source))
    return tables


def draw_count_charts(study: Study) -> list[CountChart]:
    """Draw image counts by class, split and source; runs with the same split share a chart."""
    charts = []
    for fingerprint, names, table in _read_splits(study):
        text = _("Images of {models} by class, split and source", models=names)
        stream = io.BytesIO()
        draw_counts(table, _order_splits(table["split"])).savefig(stream, format="png", dpi=200, metadata=CHART)
        stream.seek(0)
        image = shrink(stream, *QUALITY_STEPS[0])
        if image is not None:
            charts.append(CountChart(image, text, f"{text}; {_('split')} {fingerprint}"))
    return charts


def build_set_tables(study: Study) -> Iterator[Table]:
    """Yield a table of the sources of each evaluated set, as counted by blind_test."""
    for name in study.sets:
        first: dict[str, SavedResult] = {}
        for saved in study.of_block(name, "blind_test").values():
            first.setdefault(saved.fingerprint, saved)
        for number, saved in enumerate(first.values(), start=1):
            table = saved.result.tables.get("per_source")
            if table is not None and {"target", "source", "n", "groups"} <= set(table):
                yield _build_source_table(table, saved, f"set_{name}" + f"_{number}" * (number > 1))


def describe_uses(study: Study) -> list[str]:
    """Return a sentence for each external set on how often it was evaluated, by the logs of all runs."""
    results = [saved for __, saved in study.saved]
    logs = {saved.folder.parents[1] / LOG_FILE for saved in results}
    uses = count_evaluations({*logs, *find_logs(study.root)})
    sets = {digest: name for saved in results for digest, name in list_external_sets(saved.result).items()}
    return [
        _(
            "External set {set}: evaluated {times} {runs}. The more often runs are chosen by its metrics, the more "
            "optimistic these are.",
            set=name,
            times=ngettext("{n} time", "{n} times", uses[digest].times),
            runs=ngettext("on {n} run", "on {n} runs", uses[digest].runs),
        )
        for digest, name in sets.items()
        if digest in uses
    ]


def find_assessment(study: Study) -> tuple[str, list[str]] | None:
    """Return the assessment of the data and its reasons, from data_audit of a run or of the data set, or None."""
    results = [saved.result for saved in study.audits]
    for model in study.runs:
        data = model.record.get("data") or {}
        result = Result.load_if_complete(Path(data["root"]) / "audit") if data.get("root") else None
        if result is not None and result.provenance.get("data_fingerprint") == data.get("fingerprint", ""):
            results.append(result)
    own = {(model.record.get("data") or {}).get("fingerprint") for model in study.runs}  # before audits of other sets
    for result in sorted(results, key=lambda result: result.provenance.get("data_fingerprint") not in own):
        if "assessment" in result.provenance:
            return Assessment.parse(result.provenance["assessment"]).format()
    return None


def _build_source_table(table: pd.DataFrame, saved: SavedResult, name: str) -> Table:
    counts = table.sort_values(["target", "source"])[["target", "source", "n", "groups"]]
    columns = [make_column(_("class")), make_column(_("source"))]
    columns += [make_column(_("images"), True), make_column(_("groups"), True)]
    caption = _(
        "Contents of {set}: {n} images, fingerprint {fingerprint}",
        set=saved.result.set,
        n=saved.result.n,
        fingerprint=saved.fingerprint,
    )
    rows = [TableRow([make_value_cell(value) for value in row]) for row in counts.astype(object).to_numpy().tolist()]
    return Table(name, caption, columns, rows)


def _read_splits(study: Study) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield the fingerprint, the models and the images of each readable split."""
    found: dict[str, list[ReportedModel]] = {}
    for model in study.runs:
        fingerprint = str((model.record.get("split") or {}).get("fingerprint") or _("not known"))
        found.setdefault(fingerprint, []).append(model)
    for fingerprint, models in found.items():
        with suppress(OSError, ValueError):
            table = read_table(models[0].folder / "split.csv", texts=None)
            if {"label", "source", "split"} <= set(table):
                yield fingerprint, ", ".join(model.label for model in models), table


def _build_count_table(table: pd.DataFrame, by: list[str], name: str, caption: str) -> Table:
    counts = pd.crosstab([table[key] for key in by], table["split"])
    sides = _order_splits(table["split"])
    heads = {"label": _("class"), "source": _("source")}
    columns = [make_column(heads[key]) for key in by] + [make_column(side, True) for side in [*sides, _("all")]]
    rows = []
    for key, row in counts[sides].iterrows():
        names = list(key) if isinstance(key, tuple) else [key]
        rows.append(TableRow([*(str(part) for part in names), *(int(count) for count in row), int(row.sum())]))
    return Table(name, caption, columns, rows)


def _order_splits(split: pd.Series) -> list[str]:
    """Return the splits in their usual order."""
    found = set(split)
    return [*(side for side in _SPLIT_ORDER if side in found), *sorted(found - set(_SPLIT_ORDER))]
