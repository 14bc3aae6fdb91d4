"""Progress bars: where they are shown, what they show, and lines printed beside them."""

import io
import sys
from types import SimpleNamespace

import pytest

from avatar_bench.cli.app import main
from avatar_bench.console import progress
from avatar_bench.console.progress import open_bar, track, use_progress
from avatar_bench.console.terminal import print_line


class Terminal(io.StringIO):
    def isatty(self):
        return True


def use_terminal(monkeypatch, delay=0):
    """Make standard error a terminal; called in a test, as pytest sets standard error before each."""
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    monkeypatch.setattr(progress, "_DELAY", delay)
    return stream


def test_a_bar_shows_count_rate_and_time_left_and_is_removed(monkeypatch):
    terminal = use_terminal(monkeypatch)
    assert list(track([5, 6, 7], "faces")) == [5, 6, 7]
    shown = terminal.getvalue().split("\r")
    assert "faces:   0%" in terminal.getvalue()
    assert "0/3 [00:00<?, ?image/s]" in terminal.getvalue()
    assert shown[-1].strip() == ""  # the line is empty again


def test_no_bar_is_shown_for_two_seconds_where_it_is_turned_off_or_there_is_no_terminal(monkeypatch):
    terminal = use_terminal(monkeypatch, delay=2)
    list(track(range(3), "faces"))
    assert terminal.getvalue().strip() == ""
    terminal = use_terminal(monkeypatch)
    with use_progress(False):
        list(track(range(3), "faces"))
    assert terminal.getvalue() == ""
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    list(track(range(3), "faces"))
    assert stream.getvalue() == ""


def test_without_a_terminal_nested_bars_share_a_line_at_intervals(monkeypatch):
    clock = SimpleNamespace(seconds=0)
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.seconds))
    monkeypatch.setattr(progress, "_lines", progress._Lines())
    monkeypatch.setattr(progress, "_LINE_SECONDS", 30)
    with open_bar("blocks", 2) as outer, open_bar("blind", 65) as inner:
        for clock.seconds in (10, 29, 31, 45, 60, 62):
            inner.update(10)
            inner.refresh()
            outer.refresh()
    lines = stream.getvalue().splitlines()
    assert [line.partition(",")[0] for line in lines] == ["blind: 30 of 65", "blind: 60 of 65"]
    assert all(line.endswith(" left") for line in lines)
    clock.seconds = 100
    with use_progress(False):
        list(track(range(3), "faces"))
    assert len(stream.getvalue().splitlines()) == 2


def test_a_line_is_printed_without_the_bar_in_it(monkeypatch):
    terminal = use_terminal(monkeypatch)
    with open_bar("faces", 3) as bar:
        bar.update()
        print_line("epoch 1", file=sys.stderr)
    before = terminal.getvalue().partition("epoch 1\n")[0]
    assert before.rpartition("\r")[0].rpartition("\r")[2].strip() == ""  # cleared before the line
    assert before.endswith("\r")


@pytest.mark.slow
def test_training_shows_one_bar_for_all_epochs_and_evaluation_one_for_all_blocks(train, tmp_path, monkeypatch):
    terminal = use_terminal(monkeypatch)
    train(tmp_path / "run", "epochs=2", "callbacks.progress=true")
    assert "batch/s" in terminal.getvalue()
    assert "epoch 1/2:" in terminal.getvalue()
    terminal.truncate(0)
    assert main(["evaluate", f"ckpt={tmp_path / 'run'}", "block=[blind_test,prior_shift]", "data.workers=0"]) == 0
    assert "prior_shift:  50%" in terminal.getvalue()
    assert "block/s" in terminal.getvalue()
