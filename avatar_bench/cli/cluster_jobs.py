"""Waiting for the jobs of submitit: all of them, whatever becomes of one."""

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

POLL_SECONDS, CLUSTER_GRACE_SECONDS = (
    5.0,
    15.0,
)  # seconds between two questions to SLURM; that a slow disk may take to show a result
ENDED_STATES = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
}


@contextmanager
def wait_for_all_jobs(launcher: Launcher) -> Iterator[None]:
    """Have the launcher, where it is submitit's, wait for all jobs; it would give up at the first that was killed.

    What ends this command meanwhile, such as Ctrl-C, cancels the jobs.
    """
    if "submitit" not in type(launcher).__module__:
        yield
        return
    executors: Any = import_module("submitit").AutoExecutor  # an extra
    jobs: list[_WaitingJob] = []
    plain = executors.map_array

    def submit(executor: Any, *args: Any) -> list[_WaitingJob]:
        jobs.extend(_WaitingJob(job) for job in plain(executor, *args))
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
    """A submitit Job whose results say that it was killed, instead of raising that."""

    def __init__(self, job: Any) -> None:
        self.job = job

    def results(self) -> list[JobReturn]:
        """Wait for the job's end, and give its one result."""
        state = _wait_for_end(self.job)
        if self.job.paths.result_pickle.exists():
            return list(self.job.results())
        killed = JobError(f"Its process was killed or died ({state}); log: {self.job.paths.stdout}")
        return [JobReturn(status=JobStatus.FAILED, _return_value=killed)]

    def cancel(self) -> None:
        """Stop the job, if it is not over."""
        if not self.job.paths.result_pickle.exists():
            self.job.cancel(check=False)


def _wait_for_end(job: Any) -> str:
    """Wait until a job has left a result, or is over without one; give its state in the words of who ran it."""
    over_since, asked, state = None, 0.0, "RUNNING"
    while not job.paths.result_pickle.exists():
        now = time.monotonic()
        if over_since is None and now - asked >= POLL_SECONDS:
            asked, state = now, _query_state(job)
            over_since = now if state in ENDED_STATES else None
        if over_since is not None and now - over_since >= CLUSTER_GRACE_SECONDS:
            break
        time.sleep(1)
    return state


def _query_state(job: Any) -> str:
    """Ask for a job's state. Not by sacct, as submitit does: a SLURM without accounting never answers that."""
    if type(job).__name__ != "SlurmJob":
        return "RUNNING" if job.state == "RUNNING" else "FAILED"
    asked = ["squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job.job_id}"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False)
    if answer.returncode:
        return "COMPLETED" if "Invalid job id" in answer.stderr else "UNKNOWN"  # it forgets old jobs
    return (answer.stdout.split() or ["COMPLETED"])[0]
