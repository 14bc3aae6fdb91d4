"""Tables of what the report is made of: models, the provenance of results, warnings, and unusable items."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from avatar_bench.i18n import _
from avatar_bench.metrics.rounding import format_number
from avatar_bench.reporting.study import ReportedModel, Study
from avatar_bench.reporting.tables import Cell, Table, TableRow, format_temperature, make_columns
from avatar_bench.results.result import METRICS_FILE

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
        found = [saved.result.provenance for saved in model.results.values()]
        texts = [_join([one.get(key) for one in found]) for key in ("data_fingerprint", "version", "torch")]
        hashes = _make_hash_cell([model.checkpoint])
        origin = (*model.describe_origin(), _describe_calibration(model))
        cells = [model.label, *origin, hashes, model.record.seed, *texts, len(found)]
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
        compared = [one for one in provenance.get("compared") or () if isinstance(one, dict)]
        checkpoints = [str(one.get("checkpoint_sha256", "")) for one in compared or [provenance]]
        prints = _join([one.get("data_fingerprint", "") for one in compared or [provenance]])
        seeds = provenance.get("seed") if model else _join([str(one.get("seed")) for one in compared])
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
    found: dict[tuple[str, str, str], list[str]] = {}
    for model, saved in study.saved:
        for text in study.split_warnings(saved)[0]:
            key = (saved.result.block, saved.result.set, text)
            found.setdefault(key, []).append(model.label if model else _("all"))
    columns = make_columns(_("warning"), _("block"), _("set"), _("models"))
    rows = [TableRow([words, block, name, ", ".join(models)]) for (block, name, words), models in sorted(found.items())]
    return Table("warnings", _("Warnings of the blocks"), columns, rows)


def build_problem_table(study: Study) -> Table:
    """Return a table of unfinished, missing, damaged and foreign items."""
    kinds = {"unfinished": _("unfinished"), "missing": _("missing"), "damaged": _("damaged"), "foreign": _("foreign")}
    columns = make_columns(_("what"), _("where"), _("model"), _("why"))
    rows = [TableRow([kinds[one.kind], one.locate(study.root), one.model, one.why]) for one in study.problems]
    return Table("problems", _("Unfinished, missing, damaged or foreign items"), columns, rows)


def _describe_calibration(model: ReportedModel) -> str:
    """Return the images, temperature and threshold of a calibration on a user's images, "" without one."""
    saved = model.calibration
    if saved is None:
        return ""
    parts = [_("{name} ({n} images)", name=saved.images.name, n=sum(saved.n.values()))]
    parts.append(_("temperature {value}", value=format_temperature(saved.temperature, saved.fit)))
    if (found := saved.threshold) is not None:
        own = _("none of its own") if found.own is None else _("its own: {value}", value=format_number(found.own))
        parts.append(_("threshold {value} ({own})", value=format_number(found.value), own=own))
    return ", ".join([*parts, f"view={saved.view}"])


def _join(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values if value is not None))


def _make_hash_cell(found: list[str]) -> Cell:
    known = [one for one in found if one]
    return {"text": ", ".join(one[:_SHORT] for one in known) or "–", "full": " ".join(known)}
