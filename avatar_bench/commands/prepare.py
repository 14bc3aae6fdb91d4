"""prepare: build a data set from its sources, audit it and write its card."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

import avatar_bench
from avatar_bench.audit.assessment import AUDIT_BLOCK, Assessment
from avatar_bench.config.options import option, path_option
from avatar_bench.config.rules import check_held_out
from avatar_bench.config.schema import (
    COUNT,
    EQUALISE,
    FOLDS,
    LANGUAGE,
    POSITIVE,
    SPLIT_BY,
    TABLES,
    UnitsConfig,
    choose,
    guard_option,
)
from avatar_bench.console.terminal import print_line, print_note
from avatar_bench.errors import ConfigError, GuardError
from avatar_bench.i18n import use_language

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.results.result import Result
    from avatar_bench.sources.build import DatasetRecipe


@dataclass
class PrepareSplitConfig(UnitsConfig):
    by: str = option("group", help="units that are never split up", **SPLIT_BY)
    folds: int | None = option(None, help="one is test, the next val, others train; null: from data, else 10", **FOLDS)


@dataclass
class CapConfig:
    per_class: int | None = option(None, help="maximum images per class; null: all", **COUNT)
    per_source: int | None = option(None, help="maximum images per source; null: all", **COUNT)


@dataclass
class PrepareConfig:
    out: str | None = path_option("data set folder; null with data=demo: the cache folder")
    update: bool = option(False, help="add what has changed; no image changes its split")
    lang: str = option("en", help="language of the data card and the audit's figures", **LANGUAGE)
    tables: str = option("auto", **TABLES)
    equalise: str | None = option(None, help="re-encode all images alike; null: keep the files", **EQUALISE)
    out_format: str = option("files", help="shards: also write OUT/shards, tar files", **choose("files", "shards"))
    shard_mb: float = option(100.0, help="MB of a shard of out_format=shards", **POSITIVE)
    blind: list[str] = option([], help="sources of the external test set, blind.csv")
    against: dict[str, str] = path_option("{name: folder or manifest} of images to exclude", {}, is_open=True)
    split: PrepareSplitConfig = field(default_factory=PrepareSplitConfig)
    cap: CapConfig = field(default_factory=CapConfig)
    allow: list[str] = guard_option("shortcut", "removed")
    data: dict[str, Any] = option({}, help="the data set to build, instead of sources")
    source: dict[str, Any] = option({}, help="options of the sources")
    block: dict[str, Any] = option({}, help="options of data_audit")


def check(cfg: DictConfig) -> None:
    """Raise ConfigError if an option of prepare is invalid."""
    check_held_out("split", cfg.split)
    if set(cfg.block) != {"data_audit"}:
        raise ConfigError(f"block={','.join(cfg.block) or 'null'}: prepare always runs data_audit and no other block")
    kind = cfg.data.get("kind")
    if not cfg.source and kind != "demo":
        raise ConfigError(
            f"data={kind}: prepare builds from sources",
            "for example: avatar-bench prepare source=folder source.folder.root=DIR out=NEW_DIR",
        )
    if cfg.source and cfg.out is None:
        raise ConfigError("out: expected a folder", "for example: avatar-bench prepare source=tabler out=DIR")


def execute(settings: PrepareConfig) -> Dataset:
    """Build the data set that `data` or `source` describes in `out`, print a one-line summary, and return it.

    Raise ConfigError if the recipe or the folder is missing, the errors of `build_dataset`, and, after everything is
    written, GuardError if the audit finds the data unsuitable.
    """
    from avatar_bench.audit.data_card import has_card, write_card
    from avatar_bench.data.dataset import read_manifest
    from avatar_bench.data.label_spelling import describe_misspelt_labels
    from avatar_bench.data.shards import write_shards
    from avatar_bench.evaluation.block import build_block
    from avatar_bench.evaluation.blocks.data_audit import DataAudit
    from avatar_bench.files.table_io import use_table_format
    from avatar_bench.results.reasons import format_reason
    from avatar_bench.results.result import Result, draw_figures, has_figures, redraw
    from avatar_bench.sources.build import build_dataset, demo_root

    options = settings.block[AUDIT_BLOCK]
    audit = build_block(AUDIT_BLOCK, options)  # invalid options fail before the data set is built
    assert isinstance(audit, DataAudit)
    folder = settings.out or settings.data.get("root")
    out = Path(folder or demo_root(settings.data)).expanduser()
    with use_table_format(settings.tables):
        allow_removed = "removed" in settings.allow
        summary = build_dataset(
            _make_recipe(settings), out, update=settings.update, afresh=not folder, allow_removed=allow_removed
        )
    dataset = read_manifest(out / "manifest.csv", out.name)
    external = read_manifest(out / "blind.csv", "blind") if summary.blind else None
    units = {} if settings.source else (settings.data.get("split") or {}).get("units") or {}
    inputs = {"data_fingerprint": dataset.fingerprint, "options": options, "block_version": audit.version}
    inputs["external"] = external.digest if external is not None else ""
    inputs["allow"] = sorted({"shortcut"} & set(settings.allow))
    result = Result.load_if_complete(out / "audit")
    with use_table_format(settings.tables), use_language(settings.lang):
        if summary.built or result is None or not inputs.items() <= result.provenance.items():
            result = audit.audit(dataset)
            if external is not None:
                audit.compare_sides(result, dataset, external, units)
            result.warnings += describe_misspelt_labels(dataset, out / "manifest.csv")
            result.provenance |= {"version": avatar_bench.__version__, **inputs}
            (out / "card.html").unlink(missing_ok=True)  # of an earlier audit
            result.save(out / "audit", draw_figures, settings.lang)
        elif not has_figures(out / "audit", result.figures, settings.lang):
            redraw(out / "audit", draw_figures, settings.lang)
        if not has_card(out, settings.lang):
            write_card(out, result)
        for warning in result.warnings:
            print_note(f"warning: {format_reason(warning, AUDIT_BLOCK)}")
    shards = out / "shards"
    if settings.out_format == "shards" and (summary.built or not (shards / "manifest.csv").is_file()):
        write_shards(dataset, shards, out / "audit" / "metrics.json", settings.shard_mb)
    also = f"; shards: {shards}" * (settings.out_format == "shards")
    print_line(f"{summary}; card: {out / 'card.html'}{also}")
    _refuse_failed_audit(result, settings)
    return dataset


def _make_recipe(settings: PrepareConfig) -> DatasetRecipe:
    """Return the recipe of the requested data set: the named sources only, else those of `data`."""
    from avatar_bench.data.splits import DEFAULT_FOLDS, SplitPlan
    from avatar_bench.sources.build import DatasetRecipe

    data = {} if settings.source else settings.data
    own_options, split = data.get("prepare") or {}, settings.split
    return DatasetRecipe(
        sources=settings.source or data.get("sources") or {},
        blind=tuple(dict.fromkeys([*(data.get("blind_sources") or []), *settings.blind])),
        equalise=settings.equalise or own_options.get("equalise"),
        against={name: str(Path(path).expanduser().absolute()) for name, path in settings.against.items()},
        per_class=settings.cap.per_class,
        per_source=settings.cap.per_source,
        plan=SplitPlan(
            split.seed,
            split.folds or own_options.get("folds") or DEFAULT_FOLDS,
            by=split.by,
            held_out=tuple(split.held_out),
        ),
        ood={name: tuple(names) for name, names in (data.get("ood_sources") or {}).items()},
    )


def _refuse_failed_audit(result: Result, settings: PrepareConfig) -> None:
    assessment = Assessment.parse(result.provenance["assessment"])
    equalised = Assessment.parse(result.provenance.get("equalised/assessment", assessment.plain))
    if assessment.suitable == "no" and "shortcut" not in settings.allow:
        raise GuardError(
            f"This data set is unsuitable for evaluation: {assessment.format()[1][0]}",
            "It was written nevertheless; see card.html.",
            "Fix it" + " with equalise=jpeg" * (equalised.suitable != "no") + ", or set allow=[shortcut].",
        )
