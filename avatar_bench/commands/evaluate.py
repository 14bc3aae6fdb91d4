"""evaluate: judge Runs, or the data itself, by blocks."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

import avatar_bench
from avatar_bench import blocks
from avatar_bench.assembly.datasets import open_dataset
from avatar_bench.blocks.base import Block, DatasetBlock
from avatar_bench.config import EvaluateConfig
from avatar_bench.data.manifest import Dataset
from avatar_bench.errors import GuardError, OutputError
from avatar_bench.records import RECORD, find_runs, folder_name, locate, newest_run

if TYPE_CHECKING:
    from avatar_bench.results import Result
    from avatar_bench.runs import Run

_WITHOUT_RUN = Path("runs") / "evaluation"


def evaluate(cfg: DictConfig) -> None:
    """Put each Run, and the data where a block asks for no more, through each block, and save the Results.

    They go to RUN/evaluation/<set>/<block>/, those on data without a Run to runs/evaluation/<set>/<block>/, or all to
    out=DIR. Raise GuardError, after all is saved, where an audit finds that the data cannot answer the question.
    """
    settings = OmegaConf.to_object(cfg)
    assert isinstance(settings, EvaluateConfig)
    chosen = {name: blocks.build(name, options or {}) for name, options in settings.block.items()}
    other = settings.data.kind != "run"
    alone = {name: block for name, block in chosen.items() if other and isinstance(block, DatasetBlock)}
    by_run = {name: block for name, block in chosen.items() if name not in alone}
    paths = _run_paths(settings.ckpt) if by_run else []
    for path in paths:  # a mistake shows before torch has loaded
        locate(path)
    named = open_dataset(settings.data) if other else None
    results = [_judge(name, block, named, settings) for name, block in alone.items() if named]
    for path in paths:
        run = _open(path, settings)
        _guard_preprocessing(run, settings)
        dataset = named or run.dataset(settings.split)
        place = _place(run, settings, several=len(paths) > 1)
        results += [_judge(name, block, dataset, settings, run, place) for name, block in by_run.items()]
    _guard_verdicts(results, settings)


def _judge(
    name: str,
    block: Block,
    dataset: Dataset,
    settings: EvaluateConfig,
    run: Run | None = None,
    place: Path | None = None,
) -> Result:
    """Put a Run, or else the data alone, through one block; save and tell what it says."""
    if isinstance(block, DatasetBlock):
        result = block.audit(dataset)
        equalise = run.card.preprocessing.get("equalise") if run else settings.data.equalise
        result.provenance |= _provenance(dataset, settings) | {"equalise": equalise}
    else:
        assert run is not None
        result = block.evaluate(run, dataset)
        result.provenance |= _provenance(dataset, settings) | _provenance_of(run)
    folder = (place or Path(settings.out or _WITHOUT_RUN)) / folder_name(dataset.name) / name
    try:
        result.save(folder)
    except OSError as error:
        reason = f"{folder} cannot be written: {error.strerror or error}."
        raise OutputError(reason, "Give another place: out=DIR") from error
    for warning in result.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{folder}: {_headline(result)}")
    return result


def _guard_verdicts(results: list[Result], settings: EvaluateConfig) -> None:
    """Fail where an audit says no, once everything is saved; of equalised pictures where they are looked at so."""
    for result in results:
        verdict = result.provenance.get("verdict", {})
        if result.provenance.get("equalise"):
            verdict = result.provenance.get("equalised/verdict", verdict)
        if verdict.get("answer") == "no" and "shortcut" not in settings.allow:
            raise GuardError(
                f"{result.set} cannot say what tells its classes apart: {verdict['reasons'][0]}.",
                "Mend the data (data.equalise=jpeg takes away what files tell; more sources, pictures, groups),",
                "or say allow=[shortcut], which is written beside the figures.",
            )


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
    names = {"image_size": "size", "resize": "resize", "equalise": "equalise"}
    for option, name in names.items():
        value, kept = getattr(settings.data, option), run.card.preprocessing.get(name)
        if value is not None and value != kept:
            raise GuardError(
                f"data.{option}={value}, but this network was trained with {kept}.",
                "Another preprocessing gives figures of another network: leave the option out, or train with it.",
            )


def _place(run: Run, settings: EvaluateConfig, several: bool) -> Path:
    if settings.out:
        return Path(settings.out) / run.name if several else Path(settings.out)
    return (run.folder or run.checkpoint.parent) / "evaluation"


def _provenance(dataset: Dataset, settings: EvaluateConfig) -> dict[str, Any]:
    return {
        "data_fingerprint": dataset.fingerprint,
        "split": settings.split if settings.data.kind == "run" else "all",
        "allow": sorted(settings.allow),
        "version": avatar_bench.__version__,
    }


def _provenance_of(run: Run) -> dict[str, Any]:
    return {
        "run": str(run.folder or run.checkpoint),
        "checkpoint_sha256": run.checkpoint_sha256,
        "split_fingerprint": run.card.split_fingerprint,
        "seed": run.seed,
        "temperature": run.temperature,
        "overlap_checked": run.images is not None and "overlap" not in run.allow,
        "torch": metadata.version("torch"),
    }


def _headline(result: Result) -> str:
    """Say the first figure of a Result with its interval."""
    name, metric = next(iter(result.metrics.items()))
    if metric.value is None:
        return f"{name}: {metric.reason}"
    interval = f" [{metric.low:.3f}, {metric.high:.3f}]" if metric.low is not None and metric.high is not None else ""
    return f"{name} {metric.value:.3f}{interval} on {result.set} (n = {result.n})"
