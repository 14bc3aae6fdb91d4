"""Commands in processes of their own, which a test may signal, kill and starve."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from contextlib import nullcontext
from pathlib import Path

import pytest
from tqdm import tqdm

from avatar_bench.cli.app import main
from tests.builders.commands import undrawn
from tests.conftest import SOURCES, draw_set

WAIT = 300  # seconds, for a machine that has much else to do


@pytest.fixture(scope="module", autouse=True)
def blank_figures(request):
    """Save empty pages, which is most of the time of a command, except in the modules that say DRAWS = True."""
    with nullcontext() if getattr(request.module, "DRAWS", False) else undrawn():
        yield


@pytest.fixture(scope="session")
def large_run(train, tmp_path_factory):
    """A run with enough calibration images for thresholds; never write into it, except evaluation/."""
    root = tmp_path_factory.mktemp("large")
    draw_set(root, "all", 120, SOURCES, seed=5)
    words = [f"data.manifest={root / 'all.csv'}", "data.blind=null", "data.split.folds=3", "epochs=2"]
    return train(root / "run", *words)


@pytest.fixture
def command(capsys):
    """Return a function that types a command line, expects its exit code, and returns what it has printed."""

    def run(*words, code=0):
        capsys.readouterr()
        exit_code, printed = main([str(word) for word in words]), capsys.readouterr()
        assert exit_code == code, printed.err
        return printed

    return run


class Child:
    """Run one command line in a fork of this process, which has its libraries loaded already."""

    def __init__(self, words, log, before):
        self.log = log
        self.pid = os.fork()
        if self.pid == 0:
            self._be(words, before)

    def _be(self, words, before):
        code = 99
        try:
            os.setsid()
            stream = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(stream, 1)
            os.dup2(stream, 2)
            sys.stdout, sys.stderr = (os.fdopen(os.dup(stream), "w", buffering=1) for _ in range(2))
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell has it ignored
            if "torch" in sys.modules:  # a fork has none of torch's threads, and would wait for them forever
                sys.modules["torch"].set_num_threads(1)
            tqdm.set_lock(threading.RLock())  # its own: killed with the shared one, it would stop all bars here
            before()
            code = main(words)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    @property
    def said(self):
        """What it has printed on either stream."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def until(self, holds):
        """Wait until something holds; fail where the process ends before."""
        end = time.monotonic() + WAIT
        while not holds():
            assert time.monotonic() < end, self.said
            assert os.waitpid(self.pid, os.WNOHANG) == (0, 0), f"it ended before: {self.said}"
            time.sleep(0.005)

    def send(self, number):
        """Send a signal to it, and to nothing else."""
        os.kill(self.pid, number)

    def kill(self):
        """Kill it with its workers, as the end of a machine does."""
        os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def end(self):
        """Wait for its end, and give its exit code, -N where signal N has killed it."""
        end = time.monotonic() + WAIT
        while (done := os.waitpid(self.pid, os.WNOHANG)) == (0, 0):
            assert time.monotonic() < end, self.said
            time.sleep(0.01)
        return os.waitstatus_to_exitcode(done[1])

    def workers(self):
        """Return the processes that it has begun."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]


@pytest.fixture
def fork(tmp_path):
    """Begin a command line in a process of its own; `before` is called there first. None survives the test."""
    begun: list[Child] = []

    def run(*words, before=lambda: None):
        begun.append(Child(list(words), tmp_path / f"log{len(begun)}.txt", before))
        return begun[-1]

    yield run
    for child in begun:
        try:
            os.killpg(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
        except OSError:  # it has ended, as it should
            continue


@pytest.fixture
def slow(monkeypatch):
    """Return a `before` of `fork` that slows each call of a method by .1 s: a busy machine would miss milliseconds."""

    def make(owner, name):
        call = getattr(owner, name)

        def wait(*words):
            time.sleep(0.1)
            return call(*words)

        return lambda: monkeypatch.setattr(owner, name, wait)

    return make


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 24 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("needs the right to mount a disk")
    yield place
    subprocess.run(["umount", "-l", place], check=True)
