"""Origins: of which run, checkpoint, images and version every number is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from avatar_bench.i18n import _
from avatar_bench.reporting.number_format import Cell
from avatar_bench.reporting.page_links import Files
from avatar_bench.reporting.saved_result import METRICS
from avatar_bench.reporting.study import Study
from avatar_bench.reporting.tables import Row, Table, column

_SHORT = 12  # digits of a hash that are shown; the CSV has all


def model_table(study: Study) -> Table:
    """Give a row for each model: its checkpoint, seed, images, versions, and how many Results are of it."""
    columns = [
        *(column(_("model")), column(_("checkpoint, SHA-256")), column(_("seed"), True)),
        *(column(_("data fingerprints")), column(_("version")), column(_("torch")), column(_("results"), True)),
    ]
    rows = []
    for model in study.models:
        found = [saved.result.provenance for saved in model.results.values()]
        told = [_distinct(origin.get(key) for origin in found) for key in ("data_fingerprint", "version", "torch")]
        hashes = _hashes([model.checkpoint])
        rows.append(Row([model.label, hashes, model.record.get("seed"), *told, len(found)], model.label))
    return Table("model_origins", _("What was judged"), columns, rows)


def origin_table(study: Study, files: Files) -> Table:
    """Give a row for each Result: every number of that block, set and model comes from there."""
    columns = [
        *(column(_("model")), column(_("set")), column(_("block")), column(_("images"), True)),
        *(column(_("checkpoint, SHA-256")), column(_("data fingerprint")), column(_("seed"), True)),
        *(column(_("version")), column(_("torch")), column(_("code")), column(_("file"))),
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
            *(_hashes(checkpoints), ", ".join(prints), seeds, str(origin.get("version", ""))),
            *(str(origin.get("torch", "")), str(origin.get("code", ""))),
            {"text": METRICS, "href": files.link(saved.folder / METRICS)},
        ]
        rows.append(Row(cells, model.label if model else None))
    return Table("origins", _("Every result, with its checkpoint, images and version"), columns, rows)


def _distinct(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values if value is not None))


def _hashes(found: list[str]) -> Cell:
    known = [one for one in found if one]
    return {"text": ", ".join(one[:_SHORT] for one in known) or "–", "full": " ".join(known)}
