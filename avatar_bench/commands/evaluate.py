"""evaluate: judge Runs by blocks."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

import avatar_bench
from avatar_bench import blocks
from avatar_bench.config import EvaluateConfig
from avatar_bench.data.datasets import open_dataset
from avatar_bench.data.manifest import Dataset
from avatar_bench.errors import GuardError, OutputError
from avatar_bench.records import RECORD, find_runs, folder_name, locate, newest_run

if TYPE_CHECKING:
    from avatar_bench.results import Result
    from avatar_bench.runs import Run


def evaluate(cfg: DictConfig) -> None:
    """Put each Run through each block, and save the Results under RUN/evaluation/<set>/<block>/ (or out=DIR)."""
    settings = OmegaConf.to_object(cfg)
    assert isinstance(settings, EvaluateConfig)
    paths = _run_paths(settings.ckpt)
    for path in paths:  # a mistake shows before torch has loaded
        locate(path)
    other = None if settings.data.kind == "run" else open_dataset(settings.data)
    for path in paths:
        run = _open(path, settings)
        _guard_preprocessing(run, settings)
        dataset = other or run.dataset(settings.split)
        place = _place(run, settings, several=len(paths) > 1) / folder_name(dataset.name)
        for name, options in settings.block.items():
            result = blocks.build(name, options or {}).evaluate(run, dataset)
            result.provenance = _provenance(run, dataset, settings)
            try:
                result.save(place / name)
            except OSError as error:
                reason = f"{place / name} cannot be written: {error.strerror or error}."
                raise OutputError(reason, "Give another place: out=DIR") from error
            for warning in result.warnings:
                print(f"warning: {warning}", file=sys.stderr)
            print(f"{place / name}: {_headline(result)}")


def _run_paths(ckpt: Any) -> list[Path]:
    if ckpt is None:
        newest = newest_run(Path("runs"))
        print(f"ckpt={newest} (the newest run)", file=sys.stderr)
        return [newest]
    if isinstance(ckpt, list):
        return [Path(path) for path in ckpt]
    path = Path(ckpt)
    if path.is_dir() and not (path / RECORD).is_file() and (inside := find_runs(path)):
        return inside
    return [path]


def _open(path: Path, settings: EvaluateConfig) -> Run:
    from avatar_bench.runs import Run, set_threads

    set_threads(settings.threads)
    return Run.open(
        path,
        allow=frozenset(settings.allow),
        device=settings.accelerator,
        workers=settings.data.workers,
        batch_size=int(settings.data.batch_size),
    )


def _guard_preprocessing(run: Run, settings: EvaluateConfig) -> None:
    """Refuse to judge a network on images that are prepared in another way than those it was trained on."""
    stated = {"image_size": ("size", settings.data.image_size), "resize": ("resize", settings.data.resize)}
    for option, (name, value) in stated.items():
        kept = run.card.preprocessing[name]
        if value is not None and value != kept:
            raise GuardError(
                f"data.{option}={value}, but this network was trained with {kept}.",
                "Another preprocessing gives figures of another network: leave the option out, or train with it.",
            )


def _place(run: Run, settings: EvaluateConfig, several: bool) -> Path:
    if settings.out:
        return Path(settings.out) / run.name if several else Path(settings.out)
    return (run.folder or run.checkpoint.parent) / "evaluation"


def _provenance(run: Run, dataset: Dataset, settings: EvaluateConfig) -> dict[str, Any]:
    own = settings.data.kind == "run"
    return {
        "run": str(run.folder or run.checkpoint),
        "checkpoint_sha256": run.checkpoint_sha256,
        "data_fingerprint": dataset.fingerprint,
        "split_fingerprint": run.card.split_fingerprint,
        "split": settings.split if own else "all",
        "seed": run.seed,
        "temperature": run.temperature,
        "allow": sorted(settings.allow),
        "overlap_checked": run.images is not None and "overlap" not in run.allow,
        "version": avatar_bench.__version__,
        "torch": metadata.version("torch"),
    }


def _headline(result: Result) -> str:
    """Say the first figure of a Result with its interval."""
    name, metric = next(iter(result.metrics.items()))
    if metric.value is None:
        return f"{name}: {metric.reason}"
    interval = f" [{metric.low:.3f}, {metric.high:.3f}]" if metric.low is not None and metric.high is not None else ""
    return f"{name} {metric.value:.3f}{interval} on {result.set} (n = {result.n})"
