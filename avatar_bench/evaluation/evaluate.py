"""Evaluation of runs by blocks, as one command asks for it: on each run, on the runs together, on their ensembles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from avatar_bench.audit.assessment import Assessment
from avatar_bench.console.progress import open_bar
from avatar_bench.console.terminal import format_count, format_names, print_line, print_note
from avatar_bench.errors import BlockError, GuardError
from avatar_bench.evaluation.block import Block, compares
from avatar_bench.evaluation.evaluation_log import LOG_FILE, count_evaluations, find_logs
from avatar_bench.evaluation.plan import DEFAULT_RUNS, EvaluationPlan, find_common_folder
from avatar_bench.evaluation.result_writer import ResultWriter
from avatar_bench.evaluation.runner import BlockRunner
from avatar_bench.files.paths import make_folder_name
from avatar_bench.files.table_io import use_table_format
from avatar_bench.runs.ensembles import save_ensemble

if TYPE_CHECKING:
    from avatar_bench.commands.evaluate import EvaluateConfig
    from avatar_bench.results.result import Result
    from avatar_bench.runs.run import Run


def evaluate(settings: EvaluateConfig) -> list[Path]:
    """Run the blocks on each Run and data set, compare the Runs, save the Results and return their folders.

    Results go to RUN/evaluation/<set>/<block>/, comparisons to FOLDER/evaluation/<set>/<block>/ where FOLDER contains
    the runs, results on data without a Run to runs/evaluation/<set>/<block>/. out=DIR replaces FOLDER, and RUN if
    there is only one; several runs lie below DIR as below FOLDER. Results that are up to date are kept. Ensembles go
    to FOLDER/ensembles/<strategy>/ and are evaluated like a Run.

    Raise after everything is saved: GuardError if an audit finds the data unsuitable; BlockError if a block could not
    run, unless `skip_unusable` (block=all) skips it; RegressionError if a run is significantly worse than the Result
    of against=.
    """
    with use_table_format(settings.tables), ResultWriter(settings.lang) as writer:
        evaluation = _Evaluation(EvaluationPlan(settings), writer)
        evaluation.audit_data()
        evaluation.evaluate_runs()
        evaluation.compare_runs()
    evaluation.finish()
    return list(writer.told)


class _Evaluation:
    """Blocks run by one command, their results and the reasons for missing ones."""

    def __init__(self, plan: EvaluationPlan, writer: ResultWriter) -> None:
        self.plan, self.settings = plan, plan.settings
        self.writer = writer
        self.results: list[Result] = []
        self.refused: dict[tuple[str, ...], list[Path]] = {}  # reasons and the result folders that are missing
        self.left_out: dict[tuple[str, ...], list[Path]] = {}

    def audit_data(self) -> None:
        """Run the blocks that need no run on the data set of data=."""
        if self.plan.audit is not None:
            self.run_blocks(self.plan.auditing, self.plan.audit)

    def evaluate_runs(self) -> None:
        """Run the blocks on each run, and compare its Results with those of against=."""
        by_run, runners, earlier = self.plan.by_run, self.plan.runners, self.plan.earlier
        # all are read before a new one may replace them
        before = [earlier.read(item.folder, list(by_run), item.runs[0].classes) if earlier else {} for item in runners]
        for runner, replaced in zip(runners, before, strict=True):
            results = self.run_blocks(by_run, runner)
            runner.runs[0].predictor.unload()
            if earlier is not None:
                earlier.compare(results, replaced, runner.folder, self.writer)

    def compare_runs(self) -> None:
        """Run the blocks that compare the runs, evaluate their ensembles, and then run those that compare both."""
        if self.plan.together is not None:
            self.run_blocks(self.plan.comparing, self.plan.together)
            self.evaluate_ensembles()
            if self.plan.comparing_last:
                self.writer.finish()  # they read saved results, those of ensembles too
                self.run_blocks(self.plan.comparing_last, self.plan.make_last_runner())

    def evaluate_ensembles(self) -> None:
        """Save the ensembles that a Result describes, and run the blocks of single runs on them.

        In a view, whose merged classes a saved ensemble could not have, those saved before are evaluated.
        """
        described = [result.provenance["ensembles"] for result in self.results if "ensembles" in result.provenance]
        ensembles: list[Run] = []
        if described and self.plan.runs[0].view.classes:
            ensembles = list(self.plan.open_ensembles())
        elif described:
            for strategy, description in described[-1].items():
                folder = save_ensemble(self.plan.folder / "ensembles" / make_folder_name(strategy), description)
                ensembles.append(self.plan.open_ensemble(folder, strategy))
        for run in ensembles:
            self.run_blocks(self.plan.by_run, self.plan.make_runner(run), is_requested=False)
            run.predictor.unload()

    def run_blocks(self, chosen: Mapping[str, Block], runner: BlockRunner, is_requested: bool = True) -> list[Result]:
        """Run blocks and note those that cannot be run; `is_requested` if the user asked for them by name."""
        results = []
        with open_bar("blocks", len(chosen), "block") as bar:
            for name, block in chosen.items():
                bar.set_description(name)
                try:
                    results.append(runner(name, block, self.writer))
                except BlockError as error:
                    is_named = compares(block, 1) or len(runner.runs) < 2  # not what a block adds for several runs
                    is_named = is_named and is_requested and not self.settings.skip_unusable
                    reasons = self.refused if is_named else self.left_out
                    reasons.setdefault(error.lines, []).append(runner.folder / name)
                bar.update()
        self.results += results
        return results

    def finish(self) -> None:
        """Print what was skipped and where the Results are; raise if a block could not run or an audit failed."""
        for (why, *_), folders in self.left_out.items():
            print_note(f"skipped: {_format_folders(folders)}: {why}")
        for line in self.plan.earlier.told if self.plan.earlier else ():
            print_line(line)
        self._print_uses()
        written, skipped = self.writer.told, [*self.left_out.values(), *self.refused.values()]
        kept = sum(written.values())
        outcomes = {"written": len(written) - kept, "already there": kept, "skipped": sum(map(len, skipped))}
        if written and sum(outcomes.values()) > 1:  # a single Result has its own line
            counts = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items() if count)
            print_line(f"results: {counts}, in {find_common_folder([folder.parent for folder in written])}")
        _refuse_failed_audits(self.results, self.settings)
        if self.refused:
            raise _make_block_error(self.refused)
        if self.plan.earlier is not None:
            self.plan.earlier.finish()

    def _print_uses(self) -> None:
        """Print how often each external set was evaluated, by these runs and by those in runs/."""
        logs = {folder.parents[1] / LOG_FILE for folder in self.writer.told}
        uses = count_evaluations({*logs, *find_logs(DEFAULT_RUNS)})
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
            print_note(line)
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
