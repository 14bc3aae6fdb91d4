"""evaluate: judge Runs, or the data itself, by blocks."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from avatar_bench import blocks
from avatar_bench.assembly.datasets import open_dataset
from avatar_bench.blocks.base import DatasetBlock, RunBlock
from avatar_bench.commands._judging import Judge, slice_of
from avatar_bench.config import EvaluateConfig
from avatar_bench.errors import BlockError, GuardError
from avatar_bench.records import RECORD, find_runs, locate, newest_run

if TYPE_CHECKING:
    from avatar_bench.results import Result
    from avatar_bench.runs import Run


def evaluate(cfg: DictConfig) -> None:
    """Put each Run, and the data where a block asks for no more, through each block, and save the Results.

    They go to RUN/evaluation/<set>/<block>/, those on data without a Run to runs/evaluation/<set>/<block>/, or all to
    out=DIR. A Result that is there already and would come out the same is kept. Raise GuardError, after all is saved,
    where an audit finds that the data cannot answer the question; BlockError where a block cannot be used, unless
    `skip_unusable` (block=all) leaves it out.
    """
    settings = OmegaConf.to_object(cfg)
    assert isinstance(settings, EvaluateConfig)
    folders = _user_folders()
    asked = settings.block | (_users_own(folders, settings.block) if _all_are_asked() else {})
    chosen = {name: blocks.build(name, options or {}, folders) for name, options in asked.items()}
    other = settings.data.kind != "run"
    alone = {name: block for name, block in chosen.items() if other and isinstance(block, DatasetBlock)}
    by_run = {name: block for name, block in chosen.items() if name not in alone}
    paths = _run_paths(settings.ckpt) if by_run else []
    for place in paths:  # a mistake shows before torch has loaded
        locate(place)
    named = slice_of(open_dataset(settings.data), settings.where) if other else None
    results, left_out = [], []
    for path in [*([None] if alone else []), *paths]:
        run = None if path is None else _open(path, settings)
        judge = Judge(settings, named, run, several=len(paths) > 1)
        for name, block in (alone if run is None else by_run).items():
            try:
                results.append(judge(name, block))
            except BlockError as error:
                if not settings.skip_unusable:
                    raise
                left_out.append(f"left out: {judge.folder / name}: {error.lines[0]}")
    if left_out:
        print(*left_out, sep="\n", file=sys.stderr)
    if len(results) + len(left_out) > 1:
        print(f"blocks judged: {len(results)}" + f"; left out: {len(left_out)}" * bool(left_out))
    _guard_verdicts(results, settings)


def _user_folders() -> list[Path]:
    """Give the folders of yaml that Hydra looked into, in which a user's blocks may lie."""
    sources = HydraConfig.get().runtime.config_sources
    return [Path(source.path) for source in sources if source.schema == "file"]


def _all_are_asked() -> bool:
    return "all" in re.findall(r"\w+", str(HydraConfig.get().runtime.choices.get("block", "")))


def _users_own(folders: list[Path], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Give the options of the users' blocks that read a run, which conf/block/all.yaml cannot name."""
    yaml = {name: file for name, file in blocks.of_users(folders).items() if name not in chosen}
    found: dict[str, Any] = {name: OmegaConf.to_object(OmegaConf.load(file)) for name, file in yaml.items()}
    return {name: given for name, given in found.items() if isinstance(blocks.build(name, given, folders), RunBlock)}


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
        accelerator=settings.accelerator,
        workers=settings.data.workers,
        batch_size=int(settings.data.batch_size),
        others={**settings.data.ood, **({"blind": settings.data.blind} if settings.data.blind else {})},
    )
