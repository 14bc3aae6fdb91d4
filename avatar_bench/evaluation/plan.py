"""Plan of an evaluation: which blocks are run on which runs and sets, made and checked before the first pass."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from avatar_bench.console.terminal import format_count, print_line, print_note
from avatar_bench.data.dataset import DATASET_SPLITS
from avatar_bench.errors import CheckpointError, ConfigError
from avatar_bench.evaluation.block import DatasetBlock, build_block, compares
from avatar_bench.evaluation.comparison import EarlierResults
from avatar_bench.evaluation.runner import BlockRunner, check_preprocessing, select_slice
from avatar_bench.inference.autotune import set_threads
from avatar_bench.results.result import METRICS_FILE
from avatar_bench.results.view import View
from avatar_bench.runs import record
from avatar_bench.runs.ensembles import open_run
from avatar_bench.runs.labels import LabelledRun, label_runs
from avatar_bench.runs.run_images import select_answered, set_view
from avatar_bench.sources.dataset_kinds import list_further_sets, open_labelled

if TYPE_CHECKING:
    from avatar_bench.commands.evaluate import EvaluateConfig
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.inference.predictor import PredictionCache
    from avatar_bench.runs.run import Run

DEFAULT_RUNS = Path("runs")
_RESULTS = "evaluation"  # in the folder of a run, or of several


class EvaluationPlan:
    """Blocks and what each is run on, with the runs open; raise an error if a block, a run or a set cannot be used.

    `auditing` are run once on the data set `named` by data=, with the runner `audit`; `by_run` on each of the `runs`
    with the runner at the same place of `runners`, and on the ensembles of the runs; `comparing` on all runs at a time,
    with the runner `together`, and `comparing_last` on the ensembles too. Ensembles and comparisons lie in `folder`.
    `earlier` are the results of against=.
    """

    def __init__(self, settings: EvaluateConfig) -> None:
        self.settings = settings
        chosen = {name: build_block(name, options) for name, options in settings.block.items()}
        is_other = settings.data.kind != "run"
        self.auditing = {name: block for name, block in chosen.items() if is_other and isinstance(block, DatasetBlock)}
        self.by_run = {
            name: block for name, block in chosen.items() if name not in self.auditing and not compares(block, 1)
        }
        if settings.against and not self.by_run:
            raise ConfigError("against= needs a block that evaluates single runs.", "Add one: block=blind_test")
        self.earlier = EarlierResults(Path(settings.against), settings.alpha) if settings.against else None
        paths = _find_run_paths(settings) if chosen.keys() - self.auditing.keys() else []
        common_folder = find_common_folder([path.parent for path in paths]) if paths else Path()
        if isinstance(settings.ckpt, str) and len(paths) > 1:
            common_folder = Path(settings.ckpt)  # the folder that contains the runs
        self.folder = Path(settings.out) if settings.out else common_folder
        self.named = (
            select_slice(
                _rename_reserved(open_labelled(settings.data, settings.data.classes, settings.allow)), settings.where
            )
            if is_other
            else None
        )
        self.audit = None
        if self.named is not None and self.auditing:
            view = View.parse(settings.view.name, settings.view.classes) if settings.view.name else View()
            results_folder = Path(settings.out or DEFAULT_RUNS) / _RESULTS
            self.audit = BlockRunner(settings, [], [self.named.apply_view(view)], results_folder, view)
        places: list[Path | None] = [None] * len(paths)  # each run's own folder
        if settings.out:
            places = [
                Path(settings.out) / (os.path.relpath(path, common_folder) if len(paths) > 1 else "") for path in paths
            ]
        _mention_other_results(paths, places)
        self.runs = [_open_run(run, settings, folder) for run, folder in zip(label_runs(paths), places, strict=True)]
        _refuse_shared_output(self.runs)
        _set_view(self.runs, settings)
        self.runners = [self.make_runner(run) for run in self.runs]
        _share_variations(self.runners)
        comparing = {name: block for name, block in chosen.items() if compares(block, len(paths))}
        last = {name for name, block in comparing.items() if getattr(block, "takes_ensembles", False)}
        self.comparing = {name: block for name, block in comparing.items() if name not in last}
        self.comparing_last = {name: block for name, block in comparing.items() if name in last}
        self.together = None
        if comparing and (len(self.runs) > 1 or not settings.skip_unusable):
            datasets = _select_common(self.runs, [runner.datasets[0] for runner in self.runners])
            self.together = BlockRunner(settings, self.runs, datasets, self.folder / _RESULTS)

    def make_runner(self, run: Run) -> BlockRunner:
        """Return the runner of blocks on a run."""
        assert run.results_folder is not None
        return BlockRunner(self.settings, [run], [self._select_dataset(run)], run.results_folder)

    def make_last_runner(self) -> BlockRunner:
        """Return the runner of comparisons of the runs and of their saved ensembles that have been evaluated."""
        datasets = [runner.datasets[0] for runner in self.runners]
        combined = [run for run in self.open_ensembles() if run.hash_results(datasets[0].name)]
        datasets += [self._select_dataset(run) for run in combined]
        everything = [*self.runs, *combined]
        return BlockRunner(self.settings, everything, _select_common(everything, datasets), self.folder / _RESULTS)

    def open_ensemble(self, folder: Path, name: str) -> Run:
        """Open the ensemble in a folder."""
        return _open_run(LabelledRun(folder, name, name, record.RunRecord(), {}), self.settings)

    def open_ensembles(self) -> Iterator[Run]:
        """Open the saved ensembles whose members are all among the runs, in the view of these."""
        known = {run.checkpoint_sha256 for run in self.runs}
        for folder in sorted(file.parent for file in (self.folder / "ensembles").glob(f"*/{record.ENSEMBLE}")):
            try:
                run = self.open_ensemble(folder, folder.name)
            except CheckpointError as error:
                print_note(f"skipped: {folder}: {error.lines[0]}")
                continue
            if {member.checkpoint_sha256 for member in getattr(run, "members", ())} <= known:
                run.view = self.runs[0].view
                yield run

    def _select_dataset(self, run: Run) -> Dataset:
        check_preprocessing(run, self.settings)
        whole = self.named or select_slice(run.dataset(self.settings.split).whole, self.settings.where)
        return select_answered(run, whole).apply_view(run.view)


def _rename_reserved(dataset: Dataset) -> Dataset:
    """Return the data set, renamed if its name is that of a run's own set, whose Results share the folder."""
    if dataset.name.casefold() not in DATASET_SPLITS:  # the external test set may also be given by data=
        return dataset
    print_line(
        f"{dataset.name} is the name of a run's own set: the data set is renamed other_{dataset.name}, see data.name",
        file=sys.stderr,
    )
    return replace(dataset, name=f"other_{dataset.name}")


def _find_run_paths(settings: EvaluateConfig) -> list[Path]:
    """Return the paths of the requested runs; skip and print unfinished ones in a folder of runs."""
    ckpt = settings.ckpt
    if ckpt is None:
        return [record.choose_newest_run()]
    paths = [record.locate_run(str(path)) for path in (ckpt if isinstance(ckpt, list) else [ckpt])]
    real = [os.path.realpath(path) for path in paths]
    if twice := [str(path) for path, real_path in zip(paths, real, strict=True) if real.count(real_path) > 1]:
        raise ConfigError(f"ckpt: {twice[0]} is given twice.", "Expected each run once.")
    only = paths[0] if len(paths) == 1 else None
    if only and only.is_dir() and not any((only / name).is_file() for name in (record.RECORD, record.ENSEMBLE)):
        statuses = {path: record.read_record(path).status or "unknown" for path in record.find_runs(only)}
        if not statuses:
            raise CheckpointError(
                f"ckpt={only} is not a run and contains none.",
                "Expected a run folder, a folder of runs, or a .ckpt file. See: avatar-bench list runs",
            )
        for path, status in statuses.items():
            if status not in record.USABLE_STATUSES:
                print_note(f"skipped: {path}: its status is {status}")
        paths = [path for path, status in statuses.items() if status in record.USABLE_STATUSES] or list(statuses)
    for path in paths:  # fail before torch is loaded
        record.check_run(path)
    return paths


def _mention_other_results(paths: Sequence[Path], places: Sequence[Path | None]) -> None:
    """Print how many results in the run folders are not seen beside those in out=DIR."""
    counts = [len(list(path.glob(f"{_RESULTS}/[!.]*/[!.]*/{METRICS_FILE}"))) for path in paths]
    total = sum(counts)
    if total and any(places):
        first = paths[counts.index(max(counts))] / _RESULTS
        print_line(
            f"out=: {format_count(total, 'earlier result')}, such as in {first}, left aside: blocks and report "
            "runs=DIR use what is below out=DIR only",
            file=sys.stderr,
        )


def find_common_folder(folders: Sequence[Path]) -> Path:
    """Return the nearest common folder, relative if all paths are."""
    common = os.path.commonpath([os.path.abspath(folder) for folder in folders])
    return Path(common if any(folder.is_absolute() for folder in folders) else os.path.relpath(common))


def _refuse_shared_output(runs: Sequence[Run]) -> None:
    """Raise ConfigError if two runs would write to one folder, such as two checkpoints of one run folder."""
    places: dict[str, Run] = {}
    for run in runs:
        assert run.results_folder is not None
        other = places.setdefault(os.path.realpath(run.results_folder), run)
        if other is not run:
            raise ConfigError(
                f"ckpt: {other.checkpoint} and {run.checkpoint} would both write to {run.results_folder}.",
                "Choose another output folder, where each run has its own: out=DIR",
            )


def _set_view(runs: Sequence[Run], settings: EvaluateConfig) -> None:
    """Set the view of every run; name on stderr the one that is chosen because not all runs know every class."""
    if not runs:
        return
    view = set_view(runs, settings.view.name, settings.view.classes)
    if settings.view.name is None and view.classes:
        print_note(f"view={view.name} (the finest that every run can answer)")


def _share_variations(runners: Sequence[BlockRunner]) -> None:
    """Let runs whose networks take the same images of one set compute its variations together."""
    groups: dict[tuple[str, str], list[PredictionCache]] = {}
    for runner in runners if len(runners) > 1 else ():
        run, dataset = runner.runs[0], runner.datasets[0].whole
        if "module" in run.provides:  # its network is the one of which the run has the preprocessing
            group = groups.setdefault((dataset.digest, repr(run.preprocessing.pixel_settings)), [])
            group.append(run.cache)
            run.cache.beside[dataset.digest] = group


def _select_common(runs: Sequence[Run], datasets: Sequence[Dataset]) -> list[Dataset]:
    """Return the datasets, without the images that a foreign detector among the runs has no predictions of."""
    if not any(run.unanswered for run in runs):
        return list(datasets)
    every = [dataset.whole for dataset in datasets]
    common = set.intersection(*(set(whole.frame["sha256"]) for whole in every))
    # before the view, which counts the images that it leaves out itself
    kept = [whole.take(whole.frame["sha256"].isin(common)) for whole in every]
    return [whole.apply_view(run.view) for run, whole in zip(runs, kept, strict=True)]


def _open_run(labelled: LabelledRun, settings: EvaluateConfig, results_folder: Path | None = None) -> Run:
    """Open a run whose Results go to place/evaluation, by default in its own folder."""
    set_threads(settings.threads)
    run = open_run(
        labelled.folder,
        allow=frozenset(settings.allow),
        accelerator=settings.accelerator,
        workers=settings.data.workers,
        batch_size=int(settings.data.batch_size),
        others={name: str(path) for name, path in list_further_sets(settings.data).items()},
        label=labelled.label,
        recipe=labelled.recipe,
        update=settings.update,
    )
    run.results_folder = (results_folder or run.folder or run.checkpoint.parent) / _RESULTS
    return run
