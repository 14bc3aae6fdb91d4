"""Processes that read images: deaf to the signals that end a command, and never in the way of its end."""

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


@pytest.mark.slow
def test_a_command_ends_though_its_workers_are_still_there():
    ends = {"": 0, "1 / 0": 1}
    codes = [[sys.executable, "-c", LEFT.format(end=end)] for end in ends]
    commands = [subprocess.Popen(code, stderr=subprocess.PIPE, text=True) for code in codes]
    (_, quiet), (_, failed) = [command.communicate(timeout=120) for command in commands]
    assert [command.returncode for command in commands] == list(ends.values())
    assert "Traceback" not in quiet
    assert "ZeroDivisionError" in failed
