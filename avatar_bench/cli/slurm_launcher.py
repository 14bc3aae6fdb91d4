"""Waiting for all submitit jobs of a sweep, including those that are killed."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

from avatar_bench.cli.task import JobError
from avatar_bench.errors import ConfigError

POLL_SECONDS = 5.0  # between two queries to SLURM
CLUSTER_GRACE_SECONDS = 15.0  # for a slow file system to show a job's result
ENDED_STATES = (
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED"),
    *("NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"),
)


@contextmanager
def wait_for_all_jobs(launcher: Launcher) -> Iterator[None]:
    """Make submitit's launcher wait for all jobs, by a patch.

    By itself hydra-submitit-launcher 1.2.0 raises at the first job whose process was killed, and loses the results of
    the others (facebookresearch/hydra#1377 asked for partial failures). Any exception in between, such as Ctrl-C,
    cancels the jobs. Raises ConfigError if the cluster does not take them.
    """
    if "submitit" not in type(launcher).__module__:
        yield
        return
    executors: Any = import_module("submitit").AutoExecutor  # an optional dependency
    refusal: Any = import_module("submitit.core.utils").FailedJobError
    jobs: list[_WaitingJob] = []
    plain = executors.map_array

    def submit(executor: Any, *args: Any) -> list[_WaitingJob]:
        try:
            jobs.extend(_WaitingJob(job) for job in plain(executor, *args))
        except refusal as error:
            reason = " ".join(str(error).replace("sbatch: error: ", "").split())
            raise ConfigError(
                f"hydra/launcher=submitit_slurm: SLURM refused the jobs: {reason}.",
                "Change what is asked for: hydra.launcher.cpus_per_task, .mem_gb, .gpus_per_node, .partition, .account",
            ) from error
        return jobs

    executors.map_array = submit
    try:
        yield
    except BaseException:
        for waited in jobs:
            waited.cancel()
        raise
    finally:
        executors.map_array = plain


class _WaitingJob:
    """A submitit job that returns an error, instead of raising it, if its process was killed."""

    def __init__(self, job: Any) -> None:
        self.job = job

    def results(self) -> list[JobReturn]:
        """Wait for the job's end and return its single result."""
        state = _wait_for_end(self.job)
        if self.job.paths.result_pickle.exists():
            return list(self.job.results())
        killed = JobError(f"Its process was killed or died ({state}); log: {self.job.paths.stdout}")
        return [JobReturn(status=JobStatus.COMPLETED, _return_value=killed)]

    def cancel(self) -> None:
        """Cancel the job unless it has finished."""
        if not self.job.paths.result_pickle.exists():
            self.job.cancel(check=False)


def _wait_for_end(job: Any) -> str:
    """Wait until a job has a result or has ended without one; return its state as its scheduler names it."""
    over_since, asked_at, state = None, 0.0, "RUNNING"
    while not job.paths.result_pickle.exists():
        now = time.monotonic()
        if over_since is None and now - asked_at >= POLL_SECONDS:
            asked_at, state = now, _query_state(job)
            over_since = now if state in ENDED_STATES else None
        if over_since is not None and now - over_since >= CLUSTER_GRACE_SECONDS:
            break
        time.sleep(1)
    return state


def _query_state(job: Any) -> str:
    """Return a job's state, by squeue: sacct, which submitit uses, does not work without SLURM accounting."""
    if type(job).__name__ != "SlurmJob":
        return "RUNNING" if job.state == "RUNNING" else "FAILED"
    command = ["squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job.job_id}"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        return "COMPLETED" if "Invalid job id" in answer.stderr else "UNKNOWN"  # squeue forgets old jobs
    return (answer.stdout.split() or ["COMPLETED"])[0]
