"""prepare: build a data set from its sources, audit it, and write its card."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

import avatar_bench
from avatar_bench.audit.data_card import write_card
from avatar_bench.config.schema import PrepareConfig
from avatar_bench.console.terminal import tell
from avatar_bench.data.dataset import read_manifest
from avatar_bench.data.label_spelling import spelling_warnings
from avatar_bench.data.splits import FOLDS, SplitPlan
from avatar_bench.errors import GuardError
from avatar_bench.evaluation import registry
from avatar_bench.evaluation.block import DatasetBlock
from avatar_bench.i18n import use_language
from avatar_bench.results.result import Result
from avatar_bench.sources.build import Recipe, build, demo_root

AUDIT = "data_audit"


def prepare(cfg: DictConfig) -> None:
    """Build the data set that `data` or `source` describes in `out`, and say in one line what it holds.

    Raises ConfigError where the recipe or the place is not given, and as `build` does; GuardError where the audit
    finds that the data cannot answer the question, after all is written.
    """
    settings = OmegaConf.to_object(cfg)
    assert isinstance(settings, PrepareConfig)
    place = settings.out or settings.data.get("root")
    out = Path(place or demo_root()).expanduser()
    options: dict[str, Any] = settings.block[AUDIT] or {}
    audit = registry.build(AUDIT, options)  # a mistake in its options shows before the work
    assert isinstance(audit, DatasetBlock)
    summary = build(_recipe(settings), out, update=settings.update, afresh=not place)
    how = {"options": options, "allow": sorted(settings.allow), "lang": settings.lang}
    result, card = None if summary.built else _known(out, how), out / "card.html"
    if result is None:
        with use_language(settings.lang):
            result = _audit(out, audit, how)
            write_card(out, result)
    for warning in result.warnings:
        tell(f"warning: {warning}", file=sys.stderr)
    tell(f"{summary}; card: {card}")
    _guard(result, settings)


def _recipe(settings: PrepareConfig) -> Recipe:
    """Give what is asked for: the named sources and no others, else those of `data`."""
    data = {} if settings.source else settings.data
    own, split = data.get("prepare") or {}, settings.split
    return Recipe(
        settings.source or data.get("sources") or {},
        tuple(dict.fromkeys([*(data.get("blind_sources") or []), *settings.blind])),
        settings.equalise or own.get("equalise"),
        {name: str(Path(path).expanduser().absolute()) for name, path in settings.against.items()},
        settings.cap.per_class,
        settings.cap.per_source,
        SplitPlan(split.seed, split.folds or own.get("folds") or FOLDS, by=split.by, held_out=tuple(split.held_out)),
        {name: tuple(names) for name, names in (data.get("ood_sources") or {}).items()},
    )


def _known(out: Path, how: dict[str, Any]) -> Result | None:
    """Give the audit that an earlier run has left, if it is whole and was made like this."""
    if not all((out / file).is_file() for file in ("card.md", "card.html")):
        return None
    result = Result.load_whole(out / "audit")
    return result if result and how.items() <= {"lang": "en", **result.provenance}.items() else None


def _audit(out: Path, audit: DatasetBlock, how: dict[str, Any]) -> Result:
    dataset = read_manifest(out / "manifest.csv", out.name)
    result = audit.audit(dataset)
    result.warnings += spelling_warnings(dataset, out / "manifest.csv")
    result.provenance |= {
        "data_fingerprint": dataset.fingerprint,
        "version": avatar_bench.__version__,
        **how,
    }
    result.save(out / "audit")
    return result


def _mended(result: Result) -> bool:
    """Say whether equalising would take away what speaks against a data set."""
    return bool(result.provenance.get("equalised/verdict", {}).get("answer", "no") != "no")


def _guard(result: Result, settings: PrepareConfig) -> None:
    verdict = result.provenance["verdict"]
    if verdict["answer"] == "no" and "shortcut" not in settings.allow:
        raise GuardError(
            f"This data set cannot answer the question: {verdict['reasons'][0]}",
            "It is written all the same; see card.html.",
            "Mend it" + " with equalise=jpeg" * _mended(result) + ", or say allow=[shortcut].",
        )
