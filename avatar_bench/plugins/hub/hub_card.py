"""Model card of a run for the Hugging Face hub: what its record and its saved results say, with the hub's metadata."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from avatar_bench.config.catalogue import list_blocks
from avatar_bench.data.dataset import OTHER_PREFIX
from avatar_bench.errors import ConfigError, suggest_names
from avatar_bench.files import html
from avatar_bench.files.paths import make_folder_name, parse_hub_address
from avatar_bench.files.table_io import find_table, read_table
from avatar_bench.i18n import _
from avatar_bench.metrics.calibration import TemperatureFit
from avatar_bench.models.model_card import Card
from avatar_bench.reporting.block_sections import select_metrics
from avatar_bench.reporting.saved_result import SavedResult
from avatar_bench.reporting.study import ReportedModel
from avatar_bench.reporting.tables import format_metric_with_units
from avatar_bench.results.declaration import declare_block, find_heading, find_interval_name
from avatar_bench.results.display import format_value
from avatar_bench.results.reasons import format_reason
from avatar_bench.results.result import Metric
from avatar_bench.runs.record import RunRecord, list_licences
from avatar_bench.runs.saved_calibration import SavedCalibration

_TASK = "image-classification"
_METRIC_ARGS = ("low", "high", "interval", "n", "unit", "units", "population", "these_sources")
_WEAKEST = 5  # sources named for a set
_LISTED = 4  # licences named for a source
_HUB_LICENCES = re.compile(  # that the hub knows by name; others are "other", with their name beside it
    r"apache-2\.0|mit|bsd-[23]-clause|cc0-1\.0|cc-by(-nc)?(-sa|-nd)?-[234]\.0|[al]?gpl-[23]\.0|openrail|unlicense"
)


def render_hub_card(
    model: ReportedModel,
    record: RunRecord,
    card: Card,
    calibration: SavedCalibration | None,
    address: str,
) -> str:
    """Return the README.md of a shared run, named by its `address`.

    `record` is that of the shared run, `card` that of its checkpoint; `model` has the saved results.
    """
    results = sorted(model.results.values(), key=lambda saved: (saved.result.set, saved.declaration.order))
    sets = {name: list(saved_of_set) for name, saved_of_set in groupby(results, lambda saved: saved.result.set)}
    licences = [record.licence] if record.licence else list_licences(record)
    measured = {saved.result.block for saved in results}
    environment = html.build_markdown_environment("avatar_bench.plugins.hub")
    environment.globals["_"] = _
    content = {
        "name": Path(address).name,
        "address": address,
        "metadata": Markup(_render_metadata(Path(address).name, record, card, results, licences)),
        "record": record,
        "card": card,
        "sources": _tabulate_sources(model),
        "sets": [
            (name, _list_guards(saved_of_set), list(_list_blocks(saved_of_set))) for name, saved_of_set in sets.items()
        ],
        "calibration": calibration,
        "fit": calibration.fit if calibration else TemperatureFit.parse(record.temperature_fit),
        "warnings": list(
            dict.fromkeys(
                (saved.result.set, saved.result.block, warning.code)
                for saved in results
                for warning in saved.result.warnings
            )
        ),
        "promises": list(
            dict.fromkeys(format_reason(note, saved.result.block) for saved in results for note in saved.result.notes)
        ),
        "weakest": [
            (saved.result.set, _tabulate_weakest(saved)) for saved in results if "per_source" in saved.result.tables
        ],
        "unmeasured": [_(declare_block(name).title) for name in list_blocks(("run",)) if name not in measured],
    }
    return environment.get_template("hub_card.md.jinja").render(content) + "\n"


def _render_metadata(
    name: str, record: RunRecord, card: Card, results: Sequence[SavedResult], licences: Sequence[str]
) -> str:
    """Return the hub's metadata as yaml, with the metrics of the leaderboard as model-index."""
    from huggingface_hub import EvalResult, ModelCardData

    shown = [
        EvalResult(
            task_type=_TASK,
            dataset_type=make_folder_name(saved.result.set),
            dataset_name=saved.result.set,
            metric_type=key,
            metric_name=find_heading(key, saved.result.block),
            metric_value=metric.value,
            metric_args={name: metric.plain.get(name) for name in _METRIC_ARGS},
        )
        for saved, key, metric in _list_ranked(results)
    ]
    known = " and ".join(licences)
    stated: dict[str, Any] = (
        {"license": known} if _HUB_LICENCES.fullmatch(known) else {"license": "other", "license_name": known}
    )
    metadata = ModelCardData(
        library_name="avatar-bench",
        pipeline_tag=_TASK,
        tags=["avatar-bench", _TASK, *card.classes],
        base_model=f"timm/{card.backbone}" if record.init.get("weights") == "hub" else None,
        metrics=list(dict.fromkeys(saved.metric_type for saved in shown)),
        model_name=name,
        eval_results=shown or None,
        **stated if known else {},
    )
    return metadata.to_yaml()


def list_eval_results(model: ReportedModel, benchmarks: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the metrics of the leaderboard on each set that is a benchmark of the hub, as its `.eval_results` are.

    Raise ConfigError if a set was not evaluated, or if its benchmark is no address of the hub.
    """
    results = list(model.results.values())
    entries = []
    for name, address in benchmarks.items():
        repository, revision = parse_hub_address(address, f"benchmarks.{name}")
        if name not in (known := sorted({saved.result.set for saved in results})):
            raise ConfigError(
                f"benchmarks.{name}: the run was not evaluated on a set of this name{suggest_names(name, known)}",
                f"Evaluated: {', '.join(known) or 'none'}.",
            )
        version = {"revision": revision} if revision else {}
        entries += [
            {
                "dataset": {"id": repository, "task_id": key} | version,
                "value": metric.value,
                "notes": f"{format_metric_with_units(metric, saved.result.block)}, n = {metric.n}",
            }
            for saved, key, metric in _list_ranked(results)
            if saved.result.set == name
        ]
    return entries


def _list_ranked(results: Sequence[SavedResult]) -> Iterator[tuple[SavedResult, str, Metric]]:
    """Yield each metric of the leaderboard that has a value, with its result and its name."""
    for saved in results:
        for key in saved.declaration.leaderboard:
            if (metric := saved.result.metrics.get(key)) is not None and metric.value is not None:
                yield saved, key, metric


def _tabulate_sources(model: ReportedModel) -> pd.DataFrame:
    """Return the number of training images by class and source, with what their manifest stated of each.

    Empty if the images are not known.
    """
    split = find_table(model.folder / "split.csv")
    if not split.is_file():
        return pd.DataFrame()
    images = read_table(split, texts=None)
    train = images[images["split"] == "train"]
    stated = {"licence": f"{OTHER_PREFIX}licence", "author": f"{OTHER_PREFIX}author", "generator": "generator"}
    known = {name: train[column] for name, column in stated.items() if column in train and train[column].any()}
    table = pd.DataFrame({"label": train["label"], "source": train["source"], "images": 1, "licence": ""} | known)
    counts = table.groupby(["label", "source"], sort=True).agg(
        {"images": "sum", "licence": _join, **dict.fromkeys(known, _join)}
    )
    return counts.reset_index().replace({name: {"": _("not stated")} for name in ("source", "licence")})


def _join(texts: pd.Series) -> str:
    """Return the different texts of a source in one line, the first few of many."""
    distinct = sorted(set(texts) - {""})
    return "; ".join(distinct[:_LISTED]) + "; ..." * (len(distinct) > _LISTED)


def _list_guards(results: Sequence[SavedResult]) -> list[str]:
    """Return the guards that were switched off in any of these evaluations."""
    return sorted({guard for saved in results for guard in saved.result.provenance.get("allow") or ()})


def _list_blocks(results: Sequence[SavedResult]) -> Iterator[tuple[str, int, list[tuple[str, str, str, str]]]]:
    """Yield the title of each block, its number of images, and rows of its main metrics.

    A metric without a value has the code of the reason alone: values of reasons may be private.
    """
    for saved in (saved for saved in results if saved.declaration.kind == "run"):
        block, rows = saved.result.block, []
        for key in select_metrics(saved.declaration, [saved.result.metrics]):
            metric = saved.result.metrics[key]
            value = format_metric_with_units(metric, block)
            if metric.value is None and metric.reason:
                value = _("none: {why}", why=metric.reason.code)
            rows.append((find_heading(key, block), value, str(metric.n), find_interval_name(metric)))
        yield _(saved.declaration.title), saved.result.n, rows


def _tabulate_weakest(saved: SavedResult) -> list[tuple[str, ...]]:
    """Return the sources with the lowest accuracy: class, source, accuracy with its interval, and number of images."""
    table = read_table(find_table(saved.folder / "per_source.csv"), texts=["source", "target"])
    lowest = table.sort_values(["accuracy", "n"], ascending=[True, False]).head(_WEAKEST)
    return [
        (
            str(row["target"]),
            str(row["source"]) or _("not stated"),
            format_value(row["accuracy"], row["low"], row["high"]),
            str(row["n"]),
        )
        for row in lowest.to_dict("records")
    ]
