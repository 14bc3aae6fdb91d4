"""Outcomes of the jobs of a sweep under any launcher: a table, jobs.csv and an exit code."""

from __future__ import annotations

import logging
import shutil
import sys
import traceback
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from avatar_bench.cli.slurm_launcher import wait_for_all_jobs
from avatar_bench.cli.task import FAILED_JOBS_EXIT_CODE, JobError
from avatar_bench.config.overrides import name_job
from avatar_bench.config.validation import truncate
from avatar_bench.console.terminal import print_line
from avatar_bench.errors import ConfigError
from avatar_bench.files.table_io import write_csv
from avatar_bench.runs.record import RECORD, UNFINISHED_STATUSES, ListedRun, format_table, read_records
from avatar_bench.training.run_folder import format_next_command

JOBS_COLUMNS = ("job", "status", "val macro-F1", "n", "seconds", "reason")
JOBS_FILE, OPTUNA_RESULTS = "jobs.csv", "optimization_results.yaml"  # the second is Optuna's
_KILLED_ERRORS = ("TerminatedWorkerError", "WorkerCrashedError")  # joblib's, and Ray's


@dataclass
class _JobState:
    """State of a job: the mtime of its run.json at the start, and its error, "" if none, None until it ends."""

    before: int | None
    reason: str | None = None


class Sweep:
    """Jobs of a sweep in `folder`; `records` if each job writes a run.json."""

    def __init__(self, folder: Path, records: bool) -> None:
        self.folder, self.records = folder, records
        self.jobs: dict[str, _JobState] = {}
        self.next_command = ""

    @contextmanager
    def track_launcher(self) -> Iterator[None]:
        """Track the jobs of any launcher, by wrapping it.

        By a patch, as hydra-core 1.3.8 takes no launcher from outside hydra_plugins (facebookresearch/hydra#1554), and
        returns no results of a multirun.
        """
        plain = Plugins.instantiate_launcher

        def instantiate(plugins: Plugins, hydra_context: Any, task_function: Any, config: DictConfig) -> Launcher:
            if config.hydra.launcher["_target_"].endswith(".SlurmLauncher") and not shutil.which("sbatch"):
                raise ConfigError(
                    "hydra/launcher=submitit_slurm: sbatch is not installed.",
                    "Start the sweep on a machine that submits to SLURM, or use hydra/launcher=joblib.",
                )
            logging.getLogger("optuna").setLevel(logging.WARNING)  # it announces each study on stderr
            self.next_command = format_next_command(self.folder, config.hydra)
            shared = config.hydra.job.config.override_dirname.exclude_keys
            return TrackedLauncher(plain(plugins, hydra_context, task_function, config), self, shared)

        Plugins.instantiate_launcher = instantiate  # type: ignore[method-assign, assignment]
        try:
            yield
        except ValueError as error:  # raised by Optuna if no trial has finished
            raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename).parts
            if "optuna" not in raised_in or any(job.reason == "" for job in self.jobs.values()):
                raise
        finally:
            Plugins.instantiate_launcher = plain  # type: ignore[method-assign]

    def add_jobs(self, names: Sequence[str]) -> None:
        """Register jobs that are about to be launched."""
        self.jobs |= {name: _JobState(_read_mtime(self.folder / name)) for name in names}

    def record_end(self, name: str, done: JobReturn) -> None:
        """Record the end of a job from the error or value that its task returned; Optuna expects None for an error."""
        failed = isinstance(done.return_value, JobError)
        self.jobs[name].reason = " ".join(done.return_value.lines) if failed else ""
        if failed:
            done.return_value = None

    def finish(self) -> int:
        """Print the outcomes of all jobs and write them to jobs.csv; return 3 if a job is not finished."""
        if not self.records:
            return FAILED_JOBS_EXIT_CODE * any(job.reason != "" for job in self.jobs.values())
        records = {record.folder.name: record for record in read_records(self.folder)}
        rows = [_format_row(name, job, records.get(name)) for name, job in self.jobs.items()]
        if rows:
            self._print_summary(rows)
        return FAILED_JOBS_EXIT_CODE * any(row[1] != "finished" for row in rows)

    def _print_summary(self, rows: Sequence[tuple[str, ...]]) -> None:
        print(format_table([JOBS_COLUMNS, *((*row[:-1], truncate(row[-1])) for row in rows)]), file=sys.stderr)
        write_csv(pd.DataFrame(rows, columns=list(JOBS_COLUMNS)), self.folder / JOBS_FILE)
        done = [row for row in rows if row[1] == "finished"]
        if (self.folder / OPTUNA_RESULTS).is_file() and done:
            best = max(done, key=lambda row: row[2])
            print_line(f"best of {len(done)} by val macro-F1, {best[2]}: {self.folder / best[0]}")
        advice = f"; next: {self.next_command} block=all" if len(done) > 1 else ""
        rest = "; the same command runs the others" if len(done) < len(rows) else ""
        print_line(f"{len(done)} of {len(rows)} jobs are finished: {self.folder / JOBS_FILE}{rest}{advice}")


class TrackedLauncher(Launcher):
    """Launcher that delegates to another one and records the outcomes in a Sweep."""

    def __init__(self, launcher: Launcher, sweep: Sweep, shared: Collection[str]) -> None:
        self.launcher, self.sweep, self.shared = launcher, sweep, shared

    def setup(self, **kwargs: Any) -> None:
        """Do nothing: the other launcher is already set up."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Launch jobs and wait for all of them; raise JobError if a killed process has ended them all."""
        names = [name_job(words, self.shared) for words in job_overrides]
        self.sweep.add_jobs(names)
        try:
            with wait_for_all_jobs(self.launcher):
                done = self.launcher.launch(job_overrides, initial_job_idx)
        except Exception as error:
            if type(error).__name__ not in _KILLED_ERRORS:
                raise
            raise JobError(
                "A process of this sweep was killed from outside, which ended the jobs running in parallel.",
                "The same command skips finished jobs and runs the others.",
                "If memory ran out, run fewer jobs in parallel: hydra.launcher.n_jobs=1 with joblib.",
            ) from error
        for name, outcome in zip(names, done, strict=True):
            self.sweep.record_end(name, outcome)
        return done


def _format_row(name: str, job: _JobState, record: ListedRun | None) -> tuple[str, ...]:
    """Return the row of a job, from the error of its process and from its run.json if the job changed it."""
    changed = record is not None and _read_mtime(record.folder) != job.before
    if record is not None and changed and record.status == "running" and job.reason != "":
        reason = job.reason or "its process was killed"
        record = replace(record, record=replace(record.record, status="interrupted", error=reason))
        record.record.write(record.folder)
    status = record.status if record is not None and changed else None
    if job.reason == "" or (job.reason is None and status == "finished"):
        results = record.numbers if record is not None else ("-", "-", "-")
        return name, "finished", *results, "" if changed or record is None else "already finished"
    if record is not None and status in UNFINISHED_STATUSES:
        reason = job.reason or (record.record.error or "").replace("\n", " ")
        return name, record.status, "-", "-", record.numbers[-1], reason
    if job.reason is None:
        return name, "not started", "-", "-", "-", "the sweep ended before"
    if record is not None and not changed and record.status == "finished":  # its folder contains another run
        return name, "refused", *record.numbers, job.reason
    return name, "failed", "-", "-", "-", job.reason


def _read_mtime(folder: Path) -> int | None:
    file = folder / RECORD
    return file.stat().st_mtime_ns if file.is_file() else None
