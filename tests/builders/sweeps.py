"""Sweeps of which one job runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher


class FirstJob(Launcher):
    """Launcher that runs the first of its jobs alone, and keeps the words of all."""

    def __init__(self, launcher: Launcher, words: list[Sequence[str]]) -> None:
        self.launcher, self.words = launcher, words

    def setup(self, **kwargs: Any) -> None:
        """Do nothing: the other launcher is already set up."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Return the outcome of the first job for each."""
        self.words.extend(job_overrides)
        return [*self.launcher.launch(job_overrides[:1], initial_job_idx)] * len(job_overrides)


def run_first_job(patch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """Run the first job of each sweep alone; return the words of all jobs, which it fills."""
    words: list[Sequence[str]] = []
    plain = Plugins.instantiate_launcher
    patch.setattr(Plugins, "instantiate_launcher", lambda *all, **named: FirstJob(plain(*all, **named), words))
    return words


def list_values(words: Sequence[Sequence[str]], option: str) -> list[Any]:
    """Return the value of an option in each job."""
    chosen = [word for job in words for word in job if word.startswith(f"{option}=")]
    return [word.value() for word in OverridesParser.create().parse_overrides(chosen)]
