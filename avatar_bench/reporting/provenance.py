"""Origins: of which run, checkpoint, images and version every number is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from avatar_bench.i18n import _
from avatar_bench.reporting.number_format import Cell
from avatar_bench.reporting.page_links import PageLinks
from avatar_bench.reporting.saved_result import METRICS_FILE
from avatar_bench.reporting.study import Study
from avatar_bench.reporting.tables import Table, TableRow, make_column

_SHORT = 12  # digits of a hash that are shown; the CSV has all


def build_model_table(study: Study) -> Table:
    """Give a row for each model: its checkpoint, seed, images, versions, and how many Results are of it."""
    columns = [
        *(make_column(_("model")), make_column(_("checkpoint, SHA-256")), make_column(_("seed"), True)),
        *(
            make_column(_("data fingerprints")),
            make_column(_("version")),
            make_column(_("torch")),
            make_column(_("results"), True),
        ),
    ]
    rows = []
    for model in study.models:
        found = [saved.result.provenance for saved in model.results.values()]
        told = [_join_distinct(origin.get(key) for origin in found) for key in ("data_fingerprint", "version", "torch")]
        hashes = _make_hash_cell([model.checkpoint])
        rows.append(TableRow([model.label, hashes, model.record.get("seed"), *told, len(found)], model.label))
    return Table("model_origins", _("What was judged"), columns, rows)


def build_result_table(study: Study, files: PageLinks) -> Table:
    """Give a row for each Result: every number of that block, set and model comes from there."""
    columns = [
        *(make_column(_("model")), make_column(_("set")), make_column(_("block")), make_column(_("images"), True)),
        *(make_column(_("checkpoint, SHA-256")), make_column(_("data fingerprint")), make_column(_("seed"), True)),
        *(make_column(_("version")), make_column(_("torch")), make_column(_("code")), make_column(_("file"))),
    ]
    rows = []
    for model, saved in study.saved:
        result, origin = saved.result, saved.result.provenance
        compared = [one for one in origin.get("compared") or () if isinstance(one, dict)]
        checkpoints = [str(one.get("checkpoint_sha256", "")) for one in compared or [origin]]
        prints = list(dict.fromkeys(str(one.get("data_fingerprint", "")) for one in compared or [origin]))
        seeds = origin.get("seed") if model else ", ".join(dict.fromkeys(str(one.get("seed")) for one in compared))
        cells = [
            *(model.label if model else _("comparison"), result.set, result.block, result.n),
            *(_make_hash_cell(checkpoints), ", ".join(prints), seeds, str(origin.get("version", ""))),
            *(str(origin.get("torch", "")), str(origin.get("code", ""))),
            {"text": METRICS_FILE, "href": files.link(saved.folder / METRICS_FILE)},
        ]
        rows.append(TableRow(cells, model.label if model else None))
    return Table("origins", _("Every result, with its checkpoint, images and version"), columns, rows)


def _join_distinct(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values if value is not None))


def _make_hash_cell(found: list[str]) -> Cell:
    known = [one for one in found if one]
    return {"text": ", ".join(one[:_SHORT] for one in known) or "–", "full": " ".join(known)}
