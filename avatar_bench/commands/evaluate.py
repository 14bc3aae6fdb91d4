"""evaluate: run blocks on runs and data sets, and compare runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from avatar_bench.audit.assessment import Assessment
from avatar_bench.config.schema import EvaluateConfig
from avatar_bench.console.progress import open_bar
from avatar_bench.console.terminal import format_count, print_line
from avatar_bench.data.dataset import DATASET_SPLITS
from avatar_bench.data.file_names import format_names
from avatar_bench.errors import BlockError, CheckpointError, ConfigError, GuardError
from avatar_bench.evaluation import registry
from avatar_bench.evaluation.block import Block, CompareBlock, DatasetBlock
from avatar_bench.evaluation.comparison import EarlierResults
from avatar_bench.evaluation.evaluation_log import LOG_FILE, count_evaluations, find_logs
from avatar_bench.evaluation.result_writer import ResultWriter
from avatar_bench.evaluation.runner import BlockRunner, check_preprocessing, select_slice
from avatar_bench.files.paths import make_folder_name
from avatar_bench.files.table_io import use_table_format
from avatar_bench.results.result import METRICS_FILE
from avatar_bench.results.view import View
from avatar_bench.runs.labels import LabelledRun, label_runs
from avatar_bench.runs.record import (
    ENSEMBLE,
    RECORD,
    USABLE_STATUSES,
    check_run,
    choose_newest_run,
    find_runs,
    read_record,
)
from avatar_bench.runs.run_choice import locate_run
from avatar_bench.sources.dataset_kinds import list_further_sets, open_dataset

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.results.result import Result
    from avatar_bench.runs.run import Run

_DEFAULT_RUNS = Path("runs")
_RESULTS = "evaluation"  # in the folder of a run, or of several


def execute(settings: EvaluateConfig) -> list[Path]:
    """Run the blocks on each Run and data set, compare the Runs, save the Results and return their folders.

    Results go to RUN/evaluation/<set>/<block>/, comparisons to FOLDER/evaluation/<set>/<block>/ where FOLDER contains
    the runs, results on data without a Run to runs/evaluation/<set>/<block>/. out=DIR replaces FOLDER, and RUN if
    there is only one; several runs lie below DIR as below FOLDER. Results that are up to date are kept. Ensembles go
    to FOLDER/ensembles/<strategy>/ and are evaluated like a Run.

    Raise after everything is saved: GuardError if an audit finds the data unsuitable; BlockError if a block could not
    run, unless `skip_unusable` (block=all) skips it; RegressionError if a run is significantly worse than the Result
    of against=.
    """
    chosen = {name: registry.build_block(name, given) for name, given in settings.block.items()}
    other = settings.data.kind != "run"
    alone = {name: block for name, block in chosen.items() if other and isinstance(block, DatasetBlock)}
    comparing = {name: block for name, block in chosen.items() if isinstance(block, CompareBlock)}
    by_run = {name: block for name, block in chosen.items() if name not in alone | comparing}
    if settings.against and not by_run:
        raise ConfigError("against= needs a block that evaluates single runs.", "Add one: block=blind_test")
    with use_table_format(settings.tables), ResultWriter(settings.lang) as writer:
        evaluation = _Evaluation(settings, writer)
        paths = _find_run_paths(settings) if by_run or comparing else []
        around = _find_runs_folder(paths, settings)
        place = Path(settings.out) if settings.out else around
        named = select_slice(_rename_reserved(open_dataset(settings.data)), settings.where) if other else None
        if named is not None:
            without_run = Path(settings.out or _DEFAULT_RUNS) / _RESULTS
            view = View.parse(settings.view.name, settings.view.classes) if settings.view.name else View()
            seen = named.apply_view(view)
            evaluation.run_blocks(alone, BlockRunner(settings, [], [seen], without_run, view))
        places = _list_output_folders(paths, around, settings)
        _mention_other_results(paths, places)
        runs = [_open_run(run, settings, own) for run, own in zip(label_runs(paths), places, strict=True)]
        _refuse_shared_output(runs)
        _set_view(runs, settings)
        runners = [_make_runner(run, settings, named) for run in runs]
        datasets = [runner.datasets[0] for runner in runners]
        before = [evaluation.read_earlier(runner, by_run) for runner in runners]
        together = None
        if comparing and (len(runs) > 1 or not settings.skip_unusable):
            together = BlockRunner(settings, runs, _select_common(runs, datasets), place / _RESULTS)
        found = []
        for run, runner in zip(runs, runners, strict=True):  # all runs are open: errors come before the first pass
            found.append(evaluation.run_blocks(by_run, runner))
            run.predictor.unload()
        if together is not None:
            last = {name: block for name, block in comparing.items() if getattr(block, "takes_ensembles", False)}
            evaluation.run_blocks({name: block for name, block in comparing.items() if name not in last}, together)
            evaluation.evaluate_ensembles(by_run, runs, place, named)
            if last:
                writer.finish()  # the last blocks read saved results, those of ensembles too
                saved = _open_ensembles(runs, place, settings)
                combined = [run for run in saved if run.hash_results(datasets[0].name)]
                sets = [_select_dataset(run, settings, named) for run in combined]
                everything = [*runs, *combined]
                sets = _select_common(everything, [*datasets, *sets])
                evaluation.run_blocks(last, BlockRunner(settings, everything, sets, place / _RESULTS))
        for runner, now, then in zip(runners, found, before, strict=True):
            if evaluation.earlier is not None:
                evaluation.earlier.compare(now, then, runner.folder, writer)
    evaluation.finish()
    return list(writer.told)


class _Evaluation:
    """Blocks run by one command, their results and the reasons for missing ones."""

    def __init__(self, settings: EvaluateConfig, writer: ResultWriter) -> None:
        self.settings = settings
        self.writer = writer
        self.results: list[Result] = []
        self.refused: dict[tuple[str, ...], list[Path]] = {}  # reasons and the result folders that are missing
        self.left_out: dict[tuple[str, ...], list[Path]] = {}
        self.earlier = EarlierResults(Path(settings.against), settings.alpha) if settings.against else None

    def read_earlier(self, runner: BlockRunner, by_run: Mapping[str, Block]) -> dict[str, Result]:
        """Return the earlier Results of against= for a run's blocks, before new ones replace them."""
        return self.earlier.read(runner.folder, list(by_run), runner.runs[0].classes) if self.earlier else {}

    def run_blocks(self, chosen: Mapping[str, Block], runner: BlockRunner, is_requested: bool = True) -> list[Result]:
        """Run blocks and note those that cannot be run; `is_requested` if the user asked for them by name."""
        found = []
        with open_bar("blocks", len(chosen), "block") as bar:
            for name, block in chosen.items():
                bar.set_description(name, refresh=bar.n > 0)
                try:
                    found.append(runner(name, block, self.writer))
                except BlockError as error:
                    reasons = self.refused if is_requested and not self.settings.skip_unusable else self.left_out
                    reasons.setdefault(error.lines, []).append(runner.folder / name)
                bar.update()
        self.results += found
        return found

    def evaluate_ensembles(
        self, by_run: Mapping[str, Block], runs: Sequence[Run], place: Path, named: Dataset | None
    ) -> None:
        """Save the ensembles that a Result describes, and run the blocks of single Runs on them.

        In a view, whose merged classes a saved ensemble could not have, those saved before are evaluated.
        """
        from avatar_bench.runs import ensembles

        found = [result.provenance["ensembles"] for result in self.results if "ensembles" in result.provenance]
        combined = []
        if found and runs[0].view.classes:
            combined = list(_open_ensembles(runs, place, self.settings))
        elif found:
            for strategy, description in found[-1].items():
                folder = ensembles.save_ensemble(place / "ensembles" / make_folder_name(strategy), description)
                combined.append(_open_run(LabelledRun(folder, strategy, strategy, {}, {}), self.settings))
        for run in combined:
            self.run_blocks(by_run, _make_runner(run, self.settings, named), is_requested=False)
            run.predictor.unload()

    def finish(self) -> None:
        """Print what was skipped and where the Results are; raise if a block could not run or an audit failed."""
        for (why, *_), folders in self.left_out.items():
            print_line(f"skipped: {_format_folders(folders)}: {why}", file=sys.stderr)
        for line in self.earlier.told if self.earlier else ():
            print_line(line)
        self._print_uses()
        told, skipped = self.writer.told, [*self.left_out.values(), *self.refused.values()]
        kept = sum(told.values())
        outcomes = {"written": len(told) - kept, "already there": kept, "skipped": sum(map(len, skipped))}
        if told and sum(outcomes.values()) > 1:  # a single Result has its own line
            counts = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items() if count)
            print_line(f"results: {counts}, in {_find_common_folder([folder.parent for folder in told])}")
        _refuse_failed_audits(self.results, self.settings)
        if self.refused:
            raise _make_block_error(self.refused)
        if self.earlier is not None:
            self.earlier.finish()

    def _print_uses(self) -> None:
        """Print how often each external set was evaluated, by these runs and by those in runs/."""
        logs = {folder.parents[1] / LOG_FILE for folder in self.writer.told}
        uses = count_evaluations({*logs, *find_logs(_DEFAULT_RUNS)})
        for digest, name in self.writer.external_sets.items():
            if use := uses.get(digest):
                times, runs = format_count(use.times, "time"), format_count(use.runs, "run")
                print_line(f"{name}: evaluated {times} on {runs}")


def _make_block_error(reasons: Mapping[tuple[str, ...], Sequence[Path]]) -> BlockError:
    """Return the error that ends the command; print the reasons first if they exceed its three lines."""
    messages = [(f"{_format_folders(folders)}: {first}", *rest) for (first, *rest), folders in reasons.items()]
    if len(messages) == 1:
        return BlockError(*messages[0])
    lines = [" ".join(message) for message in messages]
    if len(lines) > 3:
        for line in lines:
            print_line(line, file=sys.stderr)
        lines = [f"{sum(map(len, reasons.values()))} results could not be computed, for the reasons above."]
    return BlockError(*lines)


def _format_folders(folders: Sequence[Path]) -> str:
    return format_names([str(folder) for folder in folders], 2)


def _refuse_failed_audits(results: list[Result], settings: EvaluateConfig) -> None:
    """Raise GuardError if an audit found the data unsuitable, after equalising if images are evaluated that way."""
    for result in results:
        saved = result.provenance.get("assessment")
        if result.provenance.get("equalise"):
            saved = result.provenance.get("equalised/assessment", saved)
        assessment = Assessment.parse(saved) if saved else Assessment()
        if assessment.suitable == "no" and "shortcut" not in settings.allow:
            raise GuardError(
                f"{result.set} is unsuitable for evaluation: {assessment.format()[1][0]}.",
                "Improve the data (data.equalise=jpeg removes cues of the file format; add sources, images, groups),",
                "or set allow=[shortcut], which is recorded with the results.",
            )


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
        return [choose_newest_run()]
    paths = [locate_run(str(path)) for path in (ckpt if isinstance(ckpt, list) else [ckpt])]
    real = [os.path.realpath(path) for path in paths]
    if twice := [str(path) for path, place in zip(paths, real, strict=True) if real.count(place) > 1]:
        raise ConfigError(f"ckpt: {twice[0]} is given twice.", "Expected each run once.")
    only = paths[0] if len(paths) == 1 else None
    if only and only.is_dir() and not any((only / name).is_file() for name in (RECORD, ENSEMBLE)):
        statuses = {path: read_record(path).get("status", "unknown") for path in find_runs(only)}
        if not statuses:
            raise CheckpointError(
                f"ckpt={only} is not a run and contains none.",
                "Expected a run folder, a folder of runs, or a .ckpt file. See: avatar-bench list runs",
            )
        for path, status in statuses.items():
            if status not in USABLE_STATUSES:
                print_line(f"skipped: {path}: its status is {status}", file=sys.stderr)
        paths = [path for path, status in statuses.items() if status in USABLE_STATUSES] or list(statuses)
    for path in paths:  # fail before torch is loaded
        check_run(path)
    return paths


def _find_runs_folder(paths: Sequence[Path], settings: EvaluateConfig) -> Path:
    """Return the folder that contains the runs: the given one, or their nearest common folder."""
    if isinstance(settings.ckpt, str) and len(paths) > 1:
        return Path(settings.ckpt)
    return _find_common_folder([path.parent for path in paths]) if paths else Path()


def _list_output_folders(paths: Sequence[Path], around: Path, settings: EvaluateConfig) -> list[Path | None]:
    """Return each run's output folder below out=DIR; None without out=DIR."""
    if not settings.out:
        return [None] * len(paths)
    return [Path(settings.out) / (os.path.relpath(path, around) if len(paths) > 1 else "") for path in paths]


def _mention_other_results(paths: Sequence[Path], places: Sequence[Path | None]) -> None:
    """Print how many results in the run folders are not seen beside those in out=DIR."""
    found = [len(list(path.glob(f"{_RESULTS}/[!.]*/[!.]*/{METRICS_FILE}"))) for path in paths]
    total = sum(found)
    if total and any(places):
        first = paths[found.index(max(found))] / _RESULTS
        print_line(
            f"out=: {format_count(total, 'earlier result')}, such as in {first}, left aside: blocks and report "
            "runs=DIR use what is below out=DIR only",
            file=sys.stderr,
        )


def _find_common_folder(folders: Sequence[Path]) -> Path:
    """Return the nearest common folder, relative if all paths are."""
    found = os.path.commonpath([os.path.abspath(folder) for folder in folders])
    return Path(found if any(folder.is_absolute() for folder in folders) else os.path.relpath(found))


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
    from avatar_bench.runs.view_choice import set_view

    view = set_view(runs, settings.view.name, settings.view.classes)
    if settings.view.name is None and view.classes:
        print_line(f"view={view.name} (the finest that every run can answer)", file=sys.stderr)


def _select_dataset(run: Run, settings: EvaluateConfig, named: Dataset | None) -> Dataset:
    check_preprocessing(run, settings)
    whole = named or select_slice(run.dataset(settings.split).whole, settings.where)
    return run.select_answered(whole).apply_view(run.view)


def _select_common(runs: Sequence[Run], datasets: Sequence[Dataset]) -> list[Dataset]:
    """Return the datasets, without the images that a foreign detector among the runs has no predictions of."""
    if not any(run.unanswered for run in runs):
        return list(datasets)
    every = [dataset.whole for dataset in datasets]
    common = set.intersection(*(set(whole.frame["sha256"]) for whole in every))
    # before the view, which counts the images that it leaves out itself
    kept = [whole.take(whole.frame["sha256"].isin(common)) for whole in every]
    return [whole.apply_view(run.view) for run, whole in zip(runs, kept, strict=True)]


def _make_runner(run: Run, settings: EvaluateConfig, named: Dataset | None) -> BlockRunner:
    assert run.results_folder is not None
    return BlockRunner(settings, [run], [_select_dataset(run, settings, named)], run.results_folder)


def _open_ensembles(runs: Sequence[Run], place: Path, settings: EvaluateConfig) -> Iterator[Run]:
    """Open the saved ensembles whose members are all among the runs, in the view of these."""
    known = {run.checkpoint_sha256 for run in runs}
    for folder in sorted(file.parent for file in (place / "ensembles").glob(f"*/{ENSEMBLE}")):
        try:
            run = _open_run(LabelledRun(folder, folder.name, folder.name, {}, {}), settings)
        except CheckpointError as error:
            print_line(f"skipped: {folder}: {error.lines[0]}", file=sys.stderr)
            continue
        if {member.checkpoint_sha256 for member in getattr(run, "members", ())} <= known:
            run.view = runs[0].view
            yield run


def _open_run(labelled: LabelledRun, settings: EvaluateConfig, place: Path | None = None) -> Run:
    """Open a run whose Results go to place/evaluation, by default in its own folder."""
    from avatar_bench.runs.ensembles import open_run
    from avatar_bench.runs.run import set_threads

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
    )
    run.results_folder = (place or run.folder or run.checkpoint.parent) / _RESULTS
    return run
