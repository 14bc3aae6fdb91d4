"""What the report is made of: data, models, the provenance of results, warnings, and unusable items."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from avatar_bench.audit.data_card import draw_counts
from avatar_bench.evaluation.evaluation_log import LOG_FILE, count_evaluations, find_logs, list_external_sets
from avatar_bench.files.table_io import read_table
from avatar_bench.i18n import _, ngettext
from avatar_bench.metrics.plots import encode_png
from avatar_bench.reporting.inline_images import QUALITY_STEPS, InlineImage, shrink
from avatar_bench.reporting.study import ReportedModel, Study
from avatar_bench.reporting.tables import (
    Cell,
    Table,
    TableRow,
    format_temperature,
    make_column,
    make_columns,
    make_value_cell,
)
from avatar_bench.results.display import format_number
from avatar_bench.results.result import METRICS_FILE, Result

_SHORT = 12  # digits shown of a hash; the CSV has all


def build_model_table(study: Study) -> Table:
    """Return a table of models: origin, checkpoint, seed, data, versions and number of results."""
    columns = make_columns(
        *(_("model"), _("kind"), _("licence"), _("training data"), _("calibrated on"), _("checkpoint, SHA-256")),
        *(_("seed"), _("data fingerprints"), _("version"), _("torch"), _("results")),
        numbers=(_("seed"), _("results")),
    )
    rows = []
    for model in study.models:
        provenances = [saved.result.provenance for saved in model.results.values()]
        texts = [_join([stated.get(key) for stated in provenances]) for key in ("data_fingerprint", "version", "torch")]
        hashes = _make_hash_cell([model.checkpoint])
        origin = (*model.describe_origin(), _describe_calibration(model))
        cells = [model.label, *origin, hashes, model.record.seed, *texts, len(provenances)]
        rows.append(TableRow(cells, model.label))
    return Table("models", _("Evaluated models"), columns, rows)


def build_result_table(study: Study) -> Table:
    """Return a table of results, the source of every number of their block, set and model."""
    columns = make_columns(
        *(_("model"), _("set"), _("block"), _("images"), _("checkpoint, SHA-256"), _("data fingerprint")),
        *(_("seed"), _("version"), _("torch"), _("block version"), _("file")),
        numbers=(_("images"), _("seed"), _("block version")),
    )
    rows = []
    for model, saved in study.saved:
        result, provenance = saved.result, saved.result.provenance
        compared = [compared_run for compared_run in provenance.get("compared") or () if isinstance(compared_run, dict)]
        checkpoints = [str(compared_run.get("checkpoint_sha256", "")) for compared_run in compared or [provenance]]
        prints = _join([compared_run.get("data_fingerprint", "") for compared_run in compared or [provenance]])
        seeds = provenance.get("seed") if model else _join([str(compared_run.get("seed")) for compared_run in compared])
        cells = [
            *(model.label if model else _("comparison"), result.set, result.block, result.n),
            *(_make_hash_cell(checkpoints), prints, seeds, str(provenance.get("version", ""))),
            *(str(provenance.get("torch", "")), provenance.get("block_version")),
            {"text": METRICS_FILE, "href": study.link(saved.folder / METRICS_FILE)},
        ]
        rows.append(TableRow(cells, model.label if model else None))
    return Table("provenance", _("All results with checkpoint, images and version"), columns, rows)


def build_warning_table(study: Study) -> Table:
    """Return a table of the warnings of the blocks, each text once per block and set."""
    labels: dict[tuple[str, str, str], list[str]] = {}
    for model, saved in study.saved:
        for text in study.split_warnings(saved)[0]:
            key = (saved.result.block, saved.result.set, text)
            labels.setdefault(key, []).append(model.label if model else _("all"))
    columns = make_columns(_("warning"), _("block"), _("set"), _("models"))
    rows = [
        TableRow([words, block, name, ", ".join(models)]) for (block, name, words), models in sorted(labels.items())
    ]
    return Table("warnings", _("Warnings of the blocks"), columns, rows)


def build_problem_table(study: Study) -> Table:
    """Return a table of unfinished, missing, damaged and foreign items."""
    kinds = {"unfinished": _("unfinished"), "missing": _("missing"), "damaged": _("damaged"), "foreign": _("foreign")}
    columns = make_columns(_("what"), _("where"), _("model"), _("why"))
    rows = [TableRow([kinds[item.kind], item.locate(study.root), item.model, item.why]) for item in study.problems]
    return Table("problems", _("Unfinished, missing, damaged or foreign items"), columns, rows)


def _describe_calibration(model: ReportedModel) -> str:
    """Return the images, temperature and threshold of a calibration on a user's images, "" without one."""
    saved = model.calibration
    if saved is None:
        return ""
    parts = [_("{name} ({n} images)", name=saved.images.name, n=sum(saved.n.values()))]
    parts.append(_("temperature {value}", value=format_temperature(saved.temperature, saved.fit)))
    if (fitted := saved.threshold) is not None:
        own_value = (
            _("none of its own") if fitted.own is None else _("its own: {value}", value=format_number(fitted.own))
        )
        parts.append(_("threshold {value} ({own})", value=format_number(fitted.value), own=own_value))
    return ", ".join([*parts, f"view={saved.view}"])


def _join(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values if value is not None))


def _make_hash_cell(hashes: list[str]) -> Cell:
    known = [digest for digest in hashes if digest]
    return {"text": ", ".join(digest[:_SHORT] for digest in known) or "–", "full": " ".join(known)}


_SPLIT_ORDER = ("train", "val", "calibration", "test")


def build_split_tables(study: Study) -> list[Table]:
    """Return tables of image counts by class, source and split; runs with the same split share tables."""
    tables = []
    for number, (fingerprint, models, table) in enumerate(_read_splits(study), start=1):
        by_class = _("Images by class; split {fingerprint} of {models}", fingerprint=fingerprint, models=models)
        by_source = _(
            "Images by class and source; split {fingerprint} of {models}", fingerprint=fingerprint, models=models
        )
        tag, heads = f"_{number}" * (number > 1), {"label": _("class"), "source": _("source")}
        for name, caption, by in (("classes", by_class, ["label"]), ("sources", by_source, ["label", "source"])):
            if "source" not in by or (table["source"] != "").any():
                counts = pd.crosstab([table[key] for key in by], table["split"])[_order_splits(table["split"])]
                counts[_("all")] = counts.sum(axis=1)
                tables.append(_lay_out_counts(counts.reset_index().rename(columns=heads), len(by), name + tag, caption))
    return tables


def draw_count_charts(study: Study) -> list[tuple[InlineImage, str, str]]:
    """Draw image counts by class, split and source, with alternative text and caption; a chart for each split."""
    charts = []
    for fingerprint, names, table in _read_splits(study):
        text = _("Images of {models} by class, split and source", models=names)
        drawn = encode_png(draw_counts(table, _order_splits(table["split"])), dpi=200)
        if (image := shrink(io.BytesIO(drawn), *QUALITY_STEPS[0])) is not None:
            charts.append((image, text, f"{text}; {_('split')} {fingerprint}"))
    return charts


def build_set_tables(study: Study) -> Iterator[Table]:
    """Yield a table of the sources of each evaluated set, as counted by blind_test."""
    heads = {"target": _("class"), "source": _("source"), "n": _("images"), "groups": _("groups")}
    for name in study.sets:
        for number, same in enumerate(study.group_by_images(name, "blind_test"), start=1):
            saved = next(iter(same.values()))
            table = saved.result.tables.get("per_source")
            if table is not None and heads.keys() <= set(table):
                text = _("Contents of {set}: {n} images, fingerprint {fingerprint}")
                caption = text.format(set=name, n=saved.result.n, fingerprint=saved.fingerprint)
                counts = table.sort_values(["target", "source"])[list(heads)].rename(columns=heads)
                yield _lay_out_counts(counts, 2, f"set_{name}" + f"_{number}" * (number > 1), caption)


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


def find_audit(study: Study) -> Result | None:
    """Return data_audit of a run or of the data set, if there is one with an assessment."""
    results = [Result.load_if_complete(saved.folder) or saved.result for saved in study.audits]
    for model in study.runs:
        data = model.record.data
        result = Result.load_if_complete(Path(data["root"]) / "audit") if data.get("root") else None
        if result is not None and result.provenance.get("data_fingerprint") == data.get("fingerprint", ""):
            results.append(result)
    fingerprints = {model.record.data.get("fingerprint") for model in study.runs}  # before audits of other sets
    results.sort(key=lambda result: result.provenance.get("data_fingerprint") not in fingerprints)
    return next((result for result in results if "assessment" in result.provenance), None)


def _lay_out_counts(counts: pd.DataFrame, n_texts: int, name: str, caption: str) -> Table:
    columns = [make_column(str(head), index >= n_texts) for index, head in enumerate(counts)]
    rows = [TableRow([make_value_cell(value) for value in row]) for row in counts.astype(object).to_numpy().tolist()]
    return Table(name, caption, columns, rows)


def _read_splits(study: Study) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield the fingerprint, the models and the images of each readable split."""
    by_fingerprint: dict[str, list[ReportedModel]] = {}
    for model in study.runs:
        fingerprint = str(model.record.split.get("fingerprint") or _("not known"))
        by_fingerprint.setdefault(fingerprint, []).append(model)
    for fingerprint, models in by_fingerprint.items():
        with suppress(OSError, ValueError):
            table = read_table(models[0].folder / "split.csv", texts=None)
            if {"label", "source", "split"} <= set(table):
                yield fingerprint, ", ".join(model.label for model in models), table


def _order_splits(split: pd.Series) -> list[str]:
    present = set(split)
    return [*(side for side in _SPLIT_ORDER if side in present), *sorted(present - set(_SPLIT_ORDER))]
