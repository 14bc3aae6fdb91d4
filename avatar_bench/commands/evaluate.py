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

from avatar_bench.config.schema import EvaluateConfig
from avatar_bench.console.terminal import print_line
from avatar_bench.data.dataset import DATASET_SPLITS
from avatar_bench.data.file_names import format_names
from avatar_bench.errors import BlockError, CheckpointError, ConfigError, GuardError
from avatar_bench.evaluation import registry
from avatar_bench.evaluation.block import Block, CompareBlock, DatasetBlock
from avatar_bench.evaluation.comparison import EarlierResults
from avatar_bench.evaluation.result_writer import ResultWriter
from avatar_bench.evaluation.runner import BlockRunner, check_preprocessing, select_slice
from avatar_bench.files.paths import make_folder_name
from avatar_bench.files.yaml_io import read_checked_text
from avatar_bench.i18n import use_language
from avatar_bench.runs.labels import LabelledRun, label_runs
from avatar_bench.runs.record import ENSEMBLE, RECORD, check_run, choose_newest_run, find_runs, read_record
from avatar_bench.sources.dataset_kinds import list_further_sets, open_dataset

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.results.result import Result
    from avatar_bench.runs.run import Run

_FOLDER_WITHOUT_RUN = Path("runs")


def evaluate(cfg: DictConfig) -> None:
    """Run each block on each Run, and on the data where it asks for no more, compare the Runs, save the Results.

    They go to RUN/evaluation/<set>/<block>/, comparisons to FOLDER/evaluation/<set>/<block>/ where FOLDER holds the
    runs, those on data without a Run to runs/evaluation/<set>/<block>/. out=DIR stands for FOLDER, and for RUN where
    there is one; of several, each RUN lies below DIR as below FOLDER. A Result that is there already and would come
    out the same is kept. Ensembles that are found go to FOLDER/ensembles/<strategy>/, and are evaluated like a Run.

    Raise, after all is saved: GuardError where an audit finds that the data cannot answer the question; BlockError
    where a block could not be run, unless `skip_unusable` (block=all) leaves it out; RegressionError where a run is
    significantly worse than the Result that against= gives.
    """
    settings = OmegaConf.to_object(cfg)
    assert isinstance(settings, EvaluateConfig)
    folders = _find_user_folders()
    asked = settings.block | (_find_user_blocks(folders, settings.block) if _is_all_requested() else {})
    chosen = {name: registry.build_block(name, options or {}, folders) for name, options in asked.items()}
    other = settings.data.kind != "run"
    alone = {name: block for name, block in chosen.items() if other and isinstance(block, DatasetBlock)}
    comparing = {name: block for name, block in chosen.items() if isinstance(block, CompareBlock)}
    by_run = {name: block for name, block in chosen.items() if name not in alone | comparing}
    if settings.against and not by_run:
        raise ConfigError("against= compares what blocks of one run give.", "Add one: block=blind_test")
    with ResultWriter() as saving:
        work = _Evaluation(settings, saving)
        paths = _find_run_paths(settings) if by_run or comparing else []
        around = _find_runs_folder(paths, settings)
        place = Path(settings.out) if settings.out else around
        named = select_slice(_rename_reserved(open_dataset(settings.data)), settings.where) if other else None
        if named is not None:
            work.judge(
                alone, BlockRunner(settings, [], [named], Path(settings.out or _FOLDER_WITHOUT_RUN) / "evaluation")
            )
        places = _list_output_folders(paths, around, settings)
        runs = [_open_run(entrant, settings, own) for entrant, own in zip(label_runs(paths), places, strict=True)]
        _refuse_shared_output(runs)
        datasets = [_select_dataset(run, settings, named) for run in runs]
        judges = [_make_runner(settings, run, dataset) for run, dataset in zip(runs, datasets, strict=True)]
        before = [work.read_earlier(judge, by_run) for judge in judges]
        together = None
        if comparing and (len(runs) > 1 or not settings.skip_unusable):
            together = BlockRunner(settings, runs, datasets, place / "evaluation")
        found = []
        for run, judge in zip(runs, judges, strict=True):  # all are there by now: a refusal comes before the first pass
            found.append(work.judge(by_run, judge))
            run.unload_model()
        if together is not None:
            last = {name: block for name, block in comparing.items() if block.takes_ensembles}
            work.judge({name: block for name, block in comparing.items() if name not in last}, together)
            work.judge_ensembles(by_run, place, named)
            if last:
                saving.finish()  # of ensembles, too, what is saved is read
                combined = _find_ensembles(runs, datasets[0].name, place, settings)
                sets = [_select_dataset(run, settings, named) for run in combined]
                work.judge(last, BlockRunner(settings, [*runs, *combined], [*datasets, *sets], place / "evaluation"))
        for judge, now, then in zip(judges, found, before, strict=True):
            work.compare(now, then, judge)
    work.finish()


class _Evaluation:
    """The blocks that are run, and what came of them."""

    def __init__(self, settings: EvaluateConfig, saving: ResultWriter) -> None:
        self.settings = settings
        self.saving = saving
        self.results: list[Result] = []
        self.refused: dict[tuple[str, ...], list[Path]] = {}  # reasons, and the Results that there are not
        self.left_out: dict[tuple[str, ...], list[Path]] = {}
        self.earlier = EarlierResults(Path(settings.against), settings.alpha) if settings.against else None

    def read_earlier(self, judge: BlockRunner, by_run: Mapping[str, Block]) -> dict[str, Result]:
        """Return what against= gives of a run's blocks, before the new Results take its place."""
        return self.earlier.read(judge.folder, list(by_run), judge.runs[0].classes) if self.earlier else {}

    def judge(self, chosen: Mapping[str, Block], judge: BlockRunner, named: bool = True) -> list[Result]:
        """Run blocks, and note those that cannot be run; `named` says that the user has asked for them."""
        found = []
        for name, block in chosen.items():
            try:
                found.append(judge(name, block, self.saving))
            except BlockError as error:
                reasons = self.refused if named and not self.settings.skip_unusable else self.left_out
                reasons.setdefault(error.lines, []).append(judge.folder / name)
        self.results += found
        return found

    def compare(self, now: list[Result], then: dict[str, Result], judge: BlockRunner) -> None:
        """Compare a run's new Results with the earlier ones."""
        if self.earlier is not None:
            with use_language(self.settings.lang):
                self.earlier.compare(now, then, judge.folder, self.saving)

    def judge_ensembles(self, by_run: Mapping[str, Block], place: Path, named: Dataset | None) -> None:
        """Write the ensembles that a Result describes, and run the blocks on them that were run on the Runs."""
        from avatar_bench.runs import ensembles

        found = [result.provenance["ensembles"] for result in self.results if "ensembles" in result.provenance]
        for strategy, description in (found[-1] if found else {}).items():
            folder = ensembles.save_ensemble(place / "ensembles" / make_folder_name(strategy), description)
            run = _open_run(LabelledRun(folder, strategy, strategy, {}, {}), self.settings)
            dataset = _select_dataset(run, self.settings, named)
            self.judge(by_run, _make_runner(self.settings, run, dataset), named=False)
            run.unload_model()

    def finish(self) -> None:
        """Print what was left out and where the Results are; raise where a block could not be run or an audit fails."""
        for (why, *_), folders in self.left_out.items():
            print_line(f"left out: {_format_folders(folders)}: {why}", file=sys.stderr)
        for line in self.earlier.told if self.earlier else ():
            print_line(line)
        self._tell_places()
        _refuse_failed_audits(self.results, self.settings)
        if self.refused:
            raise _make_block_error(self.refused)
        if self.earlier is not None:
            self.earlier.finish()

    def _tell_places(self) -> None:
        """Print how many Results were written, and where, unless the line of the only one has said so."""
        told = {
            "written": [folder for folder, there in self.saving.told.items() if not there],
            "already there": [folder for folder, there in self.saving.told.items() if there],
            "left out": [folder for folders in [*self.left_out.values(), *self.refused.values()] for folder in folders],
        }
        if sum(map(len, told.values())) < 2 or not self.saving.told:
            return
        counts = ", ".join(f"{len(folders)} {what}" for what, folders in told.items() if folders)
        print_line(f"results: {counts}, in {_find_common_folder([folder.parent for folder in self.saving.told])}")


def _make_block_error(reasons: Mapping[tuple[str, ...], Sequence[Path]]) -> BlockError:
    """Return the error that ends the command; what does not fit into its three lines is printed before."""
    told = [(f"{_format_folders(folders)}: {first}", *rest) for (first, *rest), folders in reasons.items()]
    if len(told) == 1:
        return BlockError(*told[0])
    lines = [" ".join(one) for one in told]
    if len(lines) > 3:
        for line in lines:
            print_line(line, file=sys.stderr)
        lines = [f"{sum(map(len, reasons.values()))} results could not be had, for the reasons above."]
    return BlockError(*lines)


def _format_folders(folders: Sequence[Path]) -> str:
    return format_names([str(folder) for folder in folders], 2)


def _find_user_folders() -> list[Path]:
    """Give the folders of yaml that Hydra looked into, in which a user's blocks may lie."""
    sources = HydraConfig.get().runtime.config_sources
    return [Path(source.path) for source in sources if source.schema == "file"]


def _is_all_requested() -> bool:
    return "all" in re.findall(r"\w+", str(HydraConfig.get().runtime.choices.get("block", "")))


def _find_user_blocks(folders: list[Path], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Give the options of the users' blocks that read runs, which conf/block/all.yaml cannot name."""
    yaml = {name: file for name, file in registry.find_user_yamls(folders).items() if name not in chosen}
    found: dict[str, Any] = {
        name: OmegaConf.to_object(OmegaConf.create(read_checked_text(file))) for name, file in yaml.items()
    }
    built = {name: registry.build_block(name, given, folders) for name, given in found.items()}
    return {name: found[name] for name, block in built.items() if not isinstance(block, DatasetBlock)}


def _refuse_failed_audits(results: list[Result], settings: EvaluateConfig) -> None:
    """Fail where an audit says no, once everything is saved; of equalised images where they are looked at so."""
    for result in results:
        verdict = result.provenance.get("assessment", {})
        if result.provenance.get("equalise"):
            verdict = result.provenance.get("equalised/assessment", verdict)
        if verdict.get("suitable") == "no" and "shortcut" not in settings.allow:
            raise GuardError(
                f"{result.set} cannot say what tells its classes apart: {verdict['reasons'][0]}.",
                "Mend the data (data.equalise=jpeg takes away what files tell; more sources, images, groups),",
                "or say allow=[shortcut], which is written beside the figures.",
            )


def _rename_reserved(dataset: Dataset) -> Dataset:
    """Call other images otherwise than a set of the run's own, whose Results would lie in the same folder."""
    if dataset.name.casefold() not in DATASET_SPLITS:  # a blind set may well be given as data=, too
        return dataset
    print_line(
        f"{dataset.name} is a set of the run's own: these are called other_{dataset.name}, see data.name",
        file=sys.stderr,
    )
    return replace(dataset, name=f"other_{dataset.name}")


def _find_run_paths(settings: EvaluateConfig) -> list[Path]:
    """Give the runs that are asked for; those in a folder of many that are not finished are left out, and named."""
    ckpt = settings.ckpt
    if ckpt is None:
        return [choose_newest_run()]
    paths = [Path(path) for path in ckpt] if isinstance(ckpt, list) else [Path(ckpt)]
    real = [os.path.realpath(path) for path in paths]
    if twice := [str(path) for path, place in zip(paths, real, strict=True) if real.count(place) > 1]:
        raise ConfigError(f"ckpt: {twice[0]} is given twice.", "Expected each run once: its copy would tie with it.")
    inside = find_runs(paths[0]) if len(paths) == 1 and _is_folder_of_runs(paths[0]) else []
    if inside:
        unfinished = {path: read_record(path).get("status", "unknown") for path in inside}
        unfinished = {path: status for path, status in unfinished.items() if status != "finished"}
        for path, status in unfinished.items():
            print_line(f"left out: {path}: its status is {status}", file=sys.stderr)
        paths = [path for path in inside if path not in unfinished] or inside
    elif len(paths) == 1 and _is_folder_of_runs(paths[0]):
        raise CheckpointError(
            f"ckpt={paths[0]} is no run, and there is none below it.",
            "Expected a run folder, a folder that holds runs, or a .ckpt file. See: avatar-bench list runs",
        )
    for path in paths:  # a mistake shows before torch has loaded
        check_run(path)
    return paths


def _is_folder_of_runs(path: Path) -> bool:
    return path.is_dir() and not (path / RECORD).is_file() and not (path / ENSEMBLE).is_file()


def _find_runs_folder(paths: Sequence[Path], settings: EvaluateConfig) -> Path:
    """Return the folder that holds the runs: the one that was given, or the nearest around all of them."""
    if isinstance(settings.ckpt, str) and len(paths) > 1:
        return Path(settings.ckpt)
    return _find_common_folder([path.parent for path in paths]) if paths else Path()


def _list_output_folders(paths: Sequence[Path], around: Path, settings: EvaluateConfig) -> list[Path | None]:
    """Return the folder below out=DIR that stands for each run's own; None without out=DIR."""
    if not settings.out:
        return [None] * len(paths)
    return [Path(settings.out) / (os.path.relpath(path, around) if len(paths) > 1 else "") for path in paths]


def _find_common_folder(folders: Sequence[Path]) -> Path:
    """Return the nearest folder around all, relative where all of them are."""
    found = os.path.commonpath([os.path.abspath(folder) for folder in folders])
    return Path(found if any(folder.is_absolute() for folder in folders) else os.path.relpath(found))


def _refuse_shared_output(runs: Sequence[Run]) -> None:
    """Raise ConfigError where two runs would write to one folder, as two checkpoints of one run folder do."""
    places: dict[str, Run] = {}
    for run in runs:
        assert run.results_folder is not None
        other = places.setdefault(os.path.realpath(run.results_folder), run)
        if other is not run:
            raise ConfigError(
                f"ckpt: {other.checkpoint} and {run.checkpoint} would both write to {run.results_folder}.",
                "Give their results another place, where each has its own folder: out=DIR",
            )


def _select_dataset(run: Run, settings: EvaluateConfig, named: Dataset | None) -> Dataset:
    check_preprocessing(run, settings)
    return named or select_slice(run.dataset(settings.split), settings.where)


def _make_runner(settings: EvaluateConfig, run: Run, dataset: Dataset) -> BlockRunner:
    assert run.results_folder is not None
    return BlockRunner(settings, [run], [dataset], run.results_folder)


def _find_ensembles(runs: Sequence[Run], name: str, place: Path, settings: EvaluateConfig) -> list[Run]:
    """Return the saved ensembles that have Results on a set and whose members are all among some runs."""
    known, found = {run.checkpoint_sha256 for run in runs}, []
    for folder in sorted(file.parent for file in (place / "ensembles").glob(f"*/{ENSEMBLE}")):
        try:
            run = _open_run(LabelledRun(folder, folder.name, folder.name, {}, {}), settings)
        except CheckpointError as error:
            print_line(f"left out: {folder}: {error.lines[0]}", file=sys.stderr)
            continue
        if run.hash_results(name) and {member.checkpoint_sha256 for member in getattr(run, "members", ())} <= known:
            found.append(run)
    return found


def _open_run(entrant: LabelledRun, settings: EvaluateConfig, place: Path | None = None) -> Run:
    """Open a run, whose Results go to place/evaluation, by default in its own folder."""
    from avatar_bench.runs.ensembles import open_run
    from avatar_bench.runs.run import set_threads

    set_threads(settings.threads)
    run = open_run(
        entrant.folder,
        allow=frozenset(settings.allow),
        accelerator=settings.accelerator,
        workers=settings.data.workers,
        batch_size=int(settings.data.batch_size),
        others={name: str(path) for name, path in list_further_sets(settings.data).items()},
        label=entrant.label,
        recipe=entrant.recipe,
    )
    run.results_folder = (place or run.folder or run.checkpoint.parent) / "evaluation"
    return run
