"""prepare: build a data set from its sources, audit it, and write its card."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

import avatar_bench
from avatar_bench import blocks
from avatar_bench.assembly.sources import Recipe, build, demo_root
from avatar_bench.audit.card import write_card
from avatar_bench.blocks.base import DatasetBlock
from avatar_bench.config import PrepareConfig
from avatar_bench.data.manifest import read_manifest
from avatar_bench.data.splits import SplitPlan
from avatar_bench.errors import ConfigError, GuardError
from avatar_bench.results import Result

AUDIT = "data_audit"


def prepare(cfg: DictConfig) -> None:
    """Build the data set that `data` or `source` describes in `out`, and say in one line what it holds.

    Raises ConfigError where the recipe or the place is not given, and as `build` does; GuardError where the audit
    finds that the data cannot answer the question, after all is written.
    """
    settings = OmegaConf.to_object(cfg)
    assert isinstance(settings, PrepareConfig)
    out = _place(settings)
    summary = build(_recipe(settings), out, update=settings.update)
    card = out / "card.html"
    if summary.built or not (out / "audit" / "metrics.json").is_file() or not card.is_file():
        result = _audit(out, settings)
        write_card(out, result)
    else:
        result = Result.load(out / "audit")
    for warning in result.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{summary}; card: {card}")
    _guard(result, settings)


def _place(settings: PrepareConfig) -> Path:
    kind = settings.data.get("kind")
    if not settings.source and kind in ("folder", "manifest", "run"):
        raise ConfigError(
            f"data={kind}: prepare builds from sources.",
            "for example: avatar-bench prepare source=folder source.folder.root=DIR out=NEW_DIR",
        )
    if settings.source and settings.out is None:
        raise ConfigError("out: where should it go?", "for example: avatar-bench prepare source=tabler out=DIR")
    return Path(settings.out or settings.data.get("root") or demo_root()).expanduser()


def _recipe(settings: PrepareConfig) -> Recipe:
    """Give what is asked for: the named sources and no others, else those of `data`."""
    own = settings.data.get("prepare") or {}
    sources, blind = (
        (settings.source, [])
        if settings.source
        else (settings.data.get("sources") or {}, settings.data.get("blind_sources") or [])
    )
    split = settings.split
    return Recipe(
        sources,
        tuple(dict.fromkeys([*blind, *settings.blind])),
        settings.equalise or (None if settings.source else own.get("equalise")),
        {name: str(Path(path).expanduser().absolute()) for name, path in settings.against.items()},
        settings.cap.per_class,
        settings.cap.per_source,
        SplitPlan(seed=split.seed, folds=split.folds, by=split.by, held_out=tuple(split.held_out)),
    )


def _audit(out: Path, settings: PrepareConfig) -> Result:
    dataset = read_manifest(out / "manifest.csv", out.name)
    options: dict[str, Any] = settings.block.get(AUDIT) or {}
    audit = blocks.build(AUDIT, options)
    assert isinstance(audit, DatasetBlock)
    result = audit.audit(dataset)
    result.provenance |= {
        "data_fingerprint": dataset.fingerprint,
        "allow": sorted(settings.allow),
        "version": avatar_bench.__version__,
    }
    result.save(out / "audit")
    return result


def _guard(result: Result, settings: PrepareConfig) -> None:
    verdict = result.provenance["verdict"]
    if verdict["answer"] == "no" and "shortcut" not in settings.allow:
        raise GuardError(
            f"This data set cannot answer the question: {verdict['reasons'][0]}",
            "It is written all the same; see card.html.",
            "Mend it (equalise=jpeg removes what the files tell), or say allow=[shortcut].",
        )
