"""Processes that read images: deaf to the signals that end a command, and never in the way of its end."""

from __future__ import annotations

import subprocess
import sys

import pytest

LEFT = """
from avatar_bench.data.loaders import ManagedLoader, make_worker_context
context = make_worker_context()
batches = iter(ManagedLoader(list(range(100_000)), batch_size=1, num_workers=2, multiprocessing_context=context))
next(batches)
{end}
"""


@pytest.mark.parametrize(("end", "code"), [("", 0), ("1 / 0", 1)])
def test_a_command_ends_though_its_workers_are_still_there(end: str, code: int) -> None:
    done = subprocess.run([sys.executable, "-c", LEFT.format(end=end)], timeout=120, capture_output=True, text=True)
    assert done.returncode == code
    assert "Traceback" not in done.stderr or end == "1 / 0"
