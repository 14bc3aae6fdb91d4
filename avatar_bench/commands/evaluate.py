"""evaluate: judge Runs, or the data itself, by blocks."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from avatar_bench import blocks
from avatar_bench.assembly.datasets import open_dataset
from avatar_bench.blocks.base import Block, CompareBlock, DatasetBlock
from avatar_bench.commands._judging import Judge, guard_preprocessing, slice_of
from avatar_bench.commands._saving import Saving
from avatar_bench.config import EvaluateConfig
from avatar_bench.data.manifest import SPLITS
from avatar_bench.entrants import Entrant, entrants
from avatar_bench.errors import BlockError, CheckpointError, ConfigError, GuardError
from avatar_bench.records import ENSEMBLE, RECORD, check_run, find_runs, folder_name, newest_of_all, read_record
from avatar_bench.terminal import tell
from avatar_bench.yaml_files import checked_text

if TYPE_CHECKING:
    from avatar_bench.data.manifest import Dataset
    from avatar_bench.results import Result
    from avatar_bench.runs import Run

_WITHOUT_RUN = Path("runs") / "evaluation"


def evaluate(cfg: DictConfig) -> None:
    """Put each Run, and the data where a block asks for no more, through each block, compare them, save the Results.

    They go to RUN/evaluation/<set>/<block>/, comparisons to FOLDER/evaluation/<set>/<block>/ where FOLDER holds the
    runs, those on data without a Run to runs/evaluation/<set>/<block>/, or all to out=DIR. A Result that is there
    already and would come out the same is kept. Ensembles that are found go to FOLDER/ensembles/<strategy>/, and with
    block=all they are put through the blocks like a Run. Raise GuardError, after all is saved, where an audit finds
    that the data cannot answer the question; BlockError where a block cannot be used, unless `skip_unusable`
    (block=all) leaves it out.
    """
    settings = OmegaConf.to_object(cfg)
    assert isinstance(settings, EvaluateConfig)
    folders = _user_folders()
    asked = settings.block | (_users_own(folders, settings.block) if _all_are_asked() else {})
    chosen = {name: blocks.build(name, options or {}, folders) for name, options in asked.items()}
    other = settings.data.kind != "run"
    alone = {name: block for name, block in chosen.items() if other and isinstance(block, DatasetBlock)}
    comparing = {name: block for name, block in chosen.items() if isinstance(block, CompareBlock)}
    by_run = {name: block for name, block in chosen.items() if name not in alone | comparing}
    with Saving() as saving:
        work = _Work(settings, saving)
        paths = _run_paths(settings) if by_run or comparing else []
        named = slice_of(_called_apart(open_dataset(settings.data)), settings.where) if other else None
        if named is not None:
            work.judge(alone, Judge(settings, [], [named], Path(settings.out or _WITHOUT_RUN)))
        runs = [_open(entrant, settings, several=len(paths) > 1) for entrant in entrants(paths)]
        datasets = [_judged_on(run, settings, named) for run in runs]
        judges = [_judge(settings, run, dataset) for run, dataset in zip(runs, datasets, strict=True)]
        together = None
        if comparing and (len(runs) > 1 or not settings.skip_unusable):
            place = _together(paths, settings)
            together = Judge(settings, runs, datasets, place / "evaluation")
        for run, judge in zip(runs, judges, strict=True):  # all are there by now: a refusal comes before the first pass
            work.judge(by_run, judge)
            run.rest()
        if together is not None:
            last = {name: block for name, block in comparing.items() if block.takes_ensembles}
            work.judge({name: block for name, block in comparing.items() if name not in last}, together)
            work.judge_ensembles(by_run, place, named)
            if last:
                saving.finish()  # of ensembles, too, what is saved is read
                found = _ensembles_of(runs, datasets[0].name, place, settings)
                sets = [_judged_on(run, settings, named) for run in found]
                work.judge(last, Judge(settings, [*runs, *found], [*datasets, *sets], place / "evaluation"))
    work.finish()


class _Work:
    """Put blocks before judges, and keep what came of it."""

    def __init__(self, settings: EvaluateConfig, saving: Saving) -> None:
        self.settings = settings
        self.saving = saving
        self.results: list[Result] = []
        self.left_out: list[str] = []

    def judge(self, chosen: Mapping[str, Block], judge: Judge) -> None:
        """Put the judge's Runs through blocks; leave out those that cannot be used, where that is allowed."""
        for name, block in chosen.items():
            try:
                self.results.append(judge(name, block, self.saving))
            except BlockError as error:
                if not self.settings.skip_unusable:
                    raise
                self.left_out.append(f"left out: {judge.folder / name}: {error.lines[0]}")

    def judge_ensembles(self, by_run: Mapping[str, Block], place: Path, named: Dataset | None) -> None:
        """Write the ensembles that a Result describes, and put them through the blocks that Runs went through."""
        from avatar_bench import ensembles

        found = [result.provenance["ensembles"] for result in self.results if "ensembles" in result.provenance]
        for strategy, description in (found[-1] if found else {}).items():
            folder = ensembles.save(place / "ensembles" / folder_name(strategy), description)
            run = _open(Entrant(folder, strategy, strategy, {}, {}), self.settings, several=True)
            dataset = _judged_on(run, self.settings, named)
            self.judge(by_run, _judge(self.settings, run, dataset))
            run.rest()

    def finish(self) -> None:
        """Say how many blocks were judged and what was left out; fail where an audit says no."""
        if self.left_out:
            for line in self.left_out:
                tell(line, file=sys.stderr)
        if len(self.results) + len(self.left_out) > 1:
            left = f"; left out: {len(self.left_out)}" * bool(self.left_out)
            tell(f"blocks judged: {len(self.results)}{left}")
        _guard_verdicts(self.results, self.settings)


def _user_folders() -> list[Path]:
    """Give the folders of yaml that Hydra looked into, in which a user's blocks may lie."""
    sources = HydraConfig.get().runtime.config_sources
    return [Path(source.path) for source in sources if source.schema == "file"]


def _all_are_asked() -> bool:
    return "all" in re.findall(r"\w+", str(HydraConfig.get().runtime.choices.get("block", "")))


def _users_own(folders: list[Path], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Give the options of the users' blocks that read runs, which conf/block/all.yaml cannot name."""
    yaml = {name: file for name, file in blocks.of_users(folders).items() if name not in chosen}
    found: dict[str, Any] = {
        name: OmegaConf.to_object(OmegaConf.create(checked_text(file))) for name, file in yaml.items()
    }
    built = {name: blocks.build(name, given, folders) for name, given in found.items()}
    return {name: found[name] for name, block in built.items() if not isinstance(block, DatasetBlock)}


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


def _called_apart(dataset: Dataset) -> Dataset:
    """Call other pictures otherwise than a set of the run's own, whose Results would lie in the same folder."""
    if dataset.name.casefold() not in SPLITS:  # a blind set may well be given as data=, too
        return dataset
    tell(
        f"{dataset.name} is a set of the run's own: these are called other_{dataset.name}, see data.name",
        file=sys.stderr,
    )
    return replace(dataset, name=f"other_{dataset.name}")


def _run_paths(settings: EvaluateConfig) -> list[Path]:
    """Give the runs that are asked for; those in a folder of many that are not finished are left out, and named."""
    ckpt = settings.ckpt
    if ckpt is None:
        return [newest_of_all()]
    paths = [Path(path) for path in ckpt] if isinstance(ckpt, list) else [Path(ckpt)]
    if twice := [str(path) for path in paths if sum(other.absolute() == path.absolute() for other in paths) > 1]:
        raise ConfigError(f"ckpt: {twice[0]} is given twice.", "Expected each run once: its copy would tie with it.")
    inside = find_runs(paths[0]) if len(paths) == 1 and _holds_runs(paths[0]) else []
    if inside:
        unfinished = {path: read_record(path).get("status", "unknown") for path in inside}
        unfinished = {path: status for path, status in unfinished.items() if status != "finished"}
        for path, status in unfinished.items():
            tell(f"left out: {path}: its status is {status}", file=sys.stderr)
        paths = [path for path in inside if path not in unfinished] or inside
    elif len(paths) == 1 and _holds_runs(paths[0]):
        raise CheckpointError(
            f"ckpt={paths[0]} is no run, and there is none below it.",
            "Expected a run folder, a folder that holds runs, or a .ckpt file. See: avatar-bench list runs",
        )
    for path in paths:  # a mistake shows before torch has loaded
        check_run(path)
    return paths


def _holds_runs(path: Path) -> bool:
    return path.is_dir() and not (path / RECORD).is_file() and not (path / ENSEMBLE).is_file()


def _together(paths: Sequence[Path], settings: EvaluateConfig) -> Path:
    """Give the folder of what is found by comparing: out=, the folder that was given, or the one around all runs."""
    if settings.out:
        return Path(settings.out)
    if isinstance(settings.ckpt, str) and len(paths) > 1:
        return Path(settings.ckpt)
    return Path(os.path.commonpath([str(path.absolute().parent) for path in paths]))


def _judged_on(run: Run, settings: EvaluateConfig, named: Dataset | None) -> Dataset:
    guard_preprocessing(run, settings)
    return named or slice_of(run.dataset(settings.split), settings.where)


def _judge(settings: EvaluateConfig, run: Run, dataset: Dataset) -> Judge:
    assert run.judged is not None
    return Judge(settings, [run], [dataset], run.judged)


def _ensembles_of(runs: Sequence[Run], name: str, place: Path, settings: EvaluateConfig) -> list[Run]:
    """Return the saved ensembles that have Results on a set and whose members are all among some runs."""
    known, found = {run.checkpoint_sha256 for run in runs}, []
    for folder in sorted(file.parent for file in (place / "ensembles").glob(f"*/{ENSEMBLE}")):
        try:
            run = _open(Entrant(folder, folder.name, folder.name, {}, {}), settings, several=True)
        except CheckpointError as error:
            tell(f"left out: {folder}: {error.lines[0]}", file=sys.stderr)
            continue
        if run.digests(name) and {member.checkpoint_sha256 for member in getattr(run, "members", ())} <= known:
            found.append(run)
    return found


def _open(entrant: Entrant, settings: EvaluateConfig, several: bool) -> Run:
    from avatar_bench.ensembles import open_run
    from avatar_bench.runs import set_threads

    set_threads(settings.threads)
    run = open_run(
        entrant.folder,
        allow=frozenset(settings.allow),
        accelerator=settings.accelerator,
        workers=settings.data.workers,
        batch_size=int(settings.data.batch_size),
        others={**settings.data.ood, **({"blind": settings.data.blind} if settings.data.blind else {})},
        label=entrant.label,
        recipe=entrant.recipe,
    )
    run.judged = (run.folder or run.checkpoint.parent) / "evaluation"
    if settings.out:
        run.judged = Path(settings.out) / run.name if several else Path(settings.out)
    return run
