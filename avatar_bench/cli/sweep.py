"""Sweep: what became of each of its jobs, whichever launcher ran them, as a table, jobs.csv and an exit code."""

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
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from avatar_bench.cli.cluster_jobs import wait_for_all_jobs
from avatar_bench.cli.task import FAILED_JOBS_EXIT_CODE, JobError
from avatar_bench.config.error_messages import explain
from avatar_bench.config.overrides import name_job
from avatar_bench.console.terminal import print_line
from avatar_bench.errors import ConfigError
from avatar_bench.files.csv_io import write_csv
from avatar_bench.runs.record import RECORD, UNFINISHED_STATUSES, RunRecord, format_table, read_records, write_record

JOBS_COLUMNS = ("job", "status", "val macro-F1", "seconds", "reason")
JOBS_FILE, OPTUNA_RESULTS = "jobs.csv", "optimization_results.yaml"  # the second is Optuna's
_BROKEN_POOL_ERRORS = ("TerminatedWorkerError", "BrokenProcessPool", "WorkerCrashedError")  # joblib's, and Ray's


@dataclass
class _JobState:
    """What is known of a job: `before` is its run.json at the start, `reason` None until its process has spoken."""

    before: int | None
    reason: str | None = None


class Sweep:
    """Follow the jobs of a sweep in `folder`; `records` says that they leave a run.json each."""

    def __init__(self, folder: Path, records: bool) -> None:
        self.folder, self.records = folder, records
        self.jobs: dict[str, _JobState] = {}

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Follow what any launcher launches. Hydra takes launchers from its own plugins alone, so theirs is wrapped."""
        plain = Plugins.instantiate_launcher

        def instantiate(plugins: Plugins, hydra_context: Any, task_function: Any, config: DictConfig) -> Launcher:
            _require_sbatch(str(config.hydra.launcher["_target_"]))
            logging.getLogger("optuna").setLevel(logging.WARNING)  # it hails each study on stderr
            shared = config.hydra.job.config.override_dirname.exclude_keys
            return TrackedLauncher(plain(plugins, hydra_context, task_function, config), self, shared)

        Plugins.instantiate_launcher = instantiate  # type: ignore[method-assign, assignment]
        try:
            yield
        except ValueError as error:  # Optuna's, where it has no trial to call the best
            raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename).parts
            if "optuna" not in raised_in or any(told.reason == "" for told in self.jobs.values()):
                raise
        finally:
            Plugins.instantiate_launcher = plain  # type: ignore[method-assign]

    def begin(self, names: Sequence[str]) -> None:
        """Take note of jobs that are about to be launched."""
        self.jobs |= {name: _JobState(_read_mtime(self.folder / name)) for name in names}

    def hear(self, name: str, done: JobReturn) -> None:
        """Take note of a job's end; what failed gives nothing, as Optuna expects, so that the sweep goes on."""
        self.jobs[name].reason = ""
        if done.status != JobStatus.COMPLETED:
            self.jobs[name].reason = " ".join(explain(done._return_value)[0])
            done.status, done.return_value = JobStatus.COMPLETED, None

    def finish(self) -> int:
        """Print what became of all jobs, and write it to jobs.csv; give 3 if one of them is not finished."""
        if not self.records:
            return FAILED_JOBS_EXIT_CODE * any(told.reason != "" for told in self.jobs.values())
        found = {record.folder.name: record for record in read_records(self.folder)}
        rows = [_format_row(name, told, found.get(name)) for name, told in self.jobs.items()]
        if rows:
            self._tell(rows)
        return FAILED_JOBS_EXIT_CODE * any(row[1] != "finished" for row in rows)

    def _tell(self, rows: Sequence[tuple[str, ...]]) -> None:
        print(format_table([JOBS_COLUMNS, *((*row[:4], _truncate(row[4])) for row in rows)]), file=sys.stderr)
        write_csv(pd.DataFrame(rows, columns=list(JOBS_COLUMNS)), self.folder / JOBS_FILE)
        done = [row for row in rows if row[1] == "finished"]
        if (self.folder / OPTUNA_RESULTS).is_file() and done:
            best = max(done, key=lambda row: row[2])
            print_line(f"best of {len(done)} by val macro-F1, {best[2]}: {self.folder / best[0]}")
        then = f"; next: avatar-bench evaluate ckpt={self.folder} block=all" if len(done) > 1 else ""
        print_line(f"{len(done)} of {len(rows)} jobs are finished: {self.folder / JOBS_FILE}{then}")


class TrackedLauncher(Launcher):
    """Launch by another launcher, and tell a Sweep what becomes of the jobs."""

    def __init__(self, launcher: Launcher, sweep: Sweep, shared: Collection[str]) -> None:
        self.launcher, self.sweep, self.shared = launcher, sweep, shared

    def setup(self, **kwargs: Any) -> None:
        """Do nothing: the other launcher is set up."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Launch jobs and wait for all of them; raise JobError where a killed process has ended them all."""
        names = [name_job(words, self.shared) for words in job_overrides]
        self.sweep.begin(names)
        try:
            with wait_for_all_jobs(self.launcher):
                done = self.launcher.launch(job_overrides, initial_job_idx)
        except Exception as error:
            if type(error).__name__ not in _BROKEN_POOL_ERRORS:
                raise
            raise JobError(
                "A process of this sweep was killed from outside, which has ended the jobs beside it.",
                "The same command skips what is finished and does the rest.",
                "If the memory was too small, let fewer run at a time: hydra.launcher.n_jobs=1 of joblib.",
            ) from error
        for name, one in zip(names, done, strict=True):
            self.sweep.hear(name, one)
        return done


def _require_sbatch(target: str) -> None:
    if target.endswith(".SlurmLauncher") and not shutil.which("sbatch"):
        raise ConfigError(
            "hydra/launcher=submitit_slurm: there is no sbatch here.",
            "Start the sweep on a machine that submits to SLURM, or take hydra/launcher=joblib.",
        )


def _format_row(name: str, told: _JobState, record: RunRecord | None) -> tuple[str, str, str, str, str]:
    """Tell what became of a job, by what its process said and by its run.json where the job has changed that."""
    changed = record is not None and _read_mtime(record.folder) != told.before
    if record is not None and changed and record.status == "running" and told.reason != "":
        record = _mark_interrupted(record, told.reason or "its process was killed")
    status = record.status if record is not None and changed else None
    if told.reason == "" or (told.reason is None and status == "finished"):
        figures = (record.macro_f1, record.seconds) if record is not None else ("-", "-")
        return name, "finished", *figures, "" if changed or record is None else "finished before"
    if record is not None and status in UNFINISHED_STATUSES:
        return name, record.status, "-", record.seconds, told.reason or str(record.data.get("error") or "")
    if told.reason is None:
        return name, "not started", "-", "-", "the sweep ended before"
    if record is not None and not changed and record.status == "finished":  # its folder holds something else
        return name, "refused", record.macro_f1, record.seconds, told.reason
    return name, "failed", "-", "-", told.reason


def _mark_interrupted(record: RunRecord, reason: str) -> RunRecord:
    """Say in the run.json of a job whose process is gone that it was interrupted."""
    data = record.data | {"status": "interrupted", "error": reason}
    write_record(record.folder, data)
    return replace(record, data=data)


def _read_mtime(folder: Path) -> int | None:
    file = folder / RECORD
    return file.stat().st_mtime_ns if file.is_file() else None


def _truncate(text: str, length: int = 100) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."
