"""Results that are saved beside the evaluation: the same files, in order, and nothing half written however it ends."""

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from avatar_bench.evaluation import result_writer
from avatar_bench.evaluation.result_writer import ResultWriter
from avatar_bench.results import result as results
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric, Result
from tests.builders.commands import read_result

DRAWS = True
BLOCKS = ["blind_test", "calibration", "error_bias"]
WORDS = [f"block=[{','.join(BLOCKS)}]", "data.workers=0", *(f"block.{name}.resamples=100" for name in BLOCKS)]
TWO = ["block=[calibration,error_bias]", *(word for word in WORDS[1:] if "blind_test" not in word)]


class Unpicklable(dict[str, Any]):
    """Values that a process could not be sent."""

    def __reduce__(self):
        raise TypeError("cannot be pickled")


def result(name):
    return Result(name, "blind", 3, ("a", "b"), {"accuracy": Metric(0.5, 3)})


@pytest.fixture
def curve(monkeypatch):
    """Let every result have one figure, a line."""

    def draw(_):
        figure = Figure(figsize=(1, 1))
        figure.subplots().plot([0, 1])
        return {"curve": figure}

    monkeypatch.setattr(result_writer, "draw_figures", draw)


@pytest.fixture
def save_slowly(monkeypatch):
    """Return a function that lets each figure be saved some seconds later."""
    save_figure = results._save_figure

    def delay(seconds):
        def save(figure, stem):
            time.sleep(seconds(stem))
            save_figure(figure, stem)

        monkeypatch.setattr(results, "_save_figure", save)

    return delay


def read_files(folder):
    """Return each file of the results below a folder by its name; metrics.json without times and places."""
    files: dict[str, Any] = {}
    for file in folder.glob("evaluation/*/*/**/*.*"):
        files[str(file.relative_to(folder))] = file.read_bytes()
    for name in [name for name in files if name.endswith("metrics.json")]:
        saved = json.loads(files[name])
        files[name] = {key: value for key, value in saved.pop("provenance").items() if not key.startswith("seconds")}
        files[name] |= saved
    return files


@pytest.mark.slow
def test_the_files_are_those_that_the_evaluation_itself_would_write(tiny_run, tmp_path, command, monkeypatch):
    log, save, pid = tmp_path / "log", Result.save, os.getpid()

    def save_and_log(result, folder, *drawn):
        with log.open("a") as stream:
            stream.write(f"{folder.name} {os.getpid() == pid}\n")
        return save(result, folder, *drawn)

    monkeypatch.setattr(Result, "save", save_and_log)
    command("evaluate", f"ckpt={tiny_run}", *TWO, f"out={tmp_path / 'beside'}")
    assert sorted(log.read_text().splitlines()) == ["calibration False", "error_bias True"]
    monkeypatch.setattr(result_writer._PendingResult, "start", lambda entry: None)
    command("evaluate", f"ckpt={tiny_run}", *TWO, f"out={tmp_path / 'itself'}")
    assert read_files(tmp_path / "beside") == read_files(tmp_path / "itself")


@pytest.mark.usefixtures("curve")
def test_results_are_printed_in_order_and_once_they_are_there(tmp_path, save_slowly, monkeypatch):
    printed, names = [], ["first", "second", "there", "fourth", "last"]

    def print_line(line, **options):
        name = next(name for name in names if f"{name}:" in line)
        assert Result.load_if_complete(tmp_path / name)
        printed.append(name)

    save_slowly(lambda stem: 0.5 * ("first" in stem.parent.name))
    monkeypatch.setattr(result_writer, "print_line", print_line)
    result("there").save(tmp_path / "there")
    with ResultWriter() as saving:
        for name in names:
            saving.begin()
            saving.add(result(name), tmp_path / name, there=name == "there")
    assert printed == names


@pytest.mark.usefixtures("curve")
def test_what_cannot_be_pickled_or_written_by_a_process_is_saved_here(tmp_path, monkeypatch):
    pid, write = os.getpid(), Result._write

    def fail(result, part):
        if result.block == "unlucky" and os.getpid() != pid:
            raise OSError("no room")
        write(result, part)

    monkeypatch.setattr(Result, "_write", fail)
    saved = [result(name) for name in ("own", "unlucky", "last")]
    saved[0].provenance = Unpicklable({"seed": 1})
    with ResultWriter() as saving:
        for each in saved:
            saving.begin()
            saving.add(each, tmp_path / each.block)
    assert all(Result.load_if_complete(tmp_path / name) for name in ("own", "unlucky", "last"))
    assert len(list(tmp_path.iterdir())) == 3


def test_a_full_disk_ends_the_evaluation_and_leaves_nothing_half_written(tiny_run, small_disk, command):
    free = shutil.disk_usage(small_disk).free
    (small_disk / "filling").write_bytes(bytes(free - 2**15))  # enough for what is written first
    out, err = command("evaluate", f"ckpt={tiny_run}", *WORDS, f"out={small_disk / 'out'}", code=5)
    folder = small_disk / "out" / "evaluation" / "test" / "blind_test"
    assert f"{folder} cannot be written: No space left" in err
    assert "error_bias" not in out
    # the images of the next set may have been listed before the failure was seen
    assert {file.name for file in (small_disk / "out").rglob("*.*")} <= {"blind.csv"}


@pytest.mark.parametrize("is_deaf", [False, True])
def test_a_signal_leaves_no_half_written_result_and_no_process(is_deaf, tiny_run, fork, tmp_path, monkeypatch):
    def hang(figure, stem: Path):
        if is_deaf:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        stem.with_suffix(".png").touch()
        (tmp_path / "writes").touch()
        time.sleep(600)

    monkeypatch.setattr(results, "_save_figure", hang)
    monkeypatch.setattr(result_writer, "_GRACE_SECONDS", 0.5 if is_deaf else 600)
    child = fork("evaluate", f"ckpt={tiny_run}", *WORDS, f"out={tmp_path / 'out'}")
    child.until((tmp_path / "writes").exists)
    os.killpg(child.pid, signal.SIGINT)  # as a terminal sends it: to the processes that write too
    assert child.end() == 130
    assert "Traceback" not in child.said
    advice = "finished results are saved; run the command again, without again=true, for the rest"
    assert child.said.endswith(f"interrupted; {advice}\n")
    assert list((tmp_path / "out" / "evaluation" / "test").iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.killpg(child.pid, 0)


@pytest.mark.slow
def test_a_block_that_reads_results_finds_all_of_them(run_copy, command, save_slowly):
    save_slowly(lambda stem: 0.3)
    words = ["block=[blind_test,overview]", "block.blind_test.resamples=100", "data.workers=0"]
    command("evaluate", f"ckpt={run_copy}", *words)
    assert [sorted(read) for read in read_result(run_copy.parent, "test", "overview")["provenance"]["read"]] == [
        ["blind_test"]
    ]
    overview = Result.load(run_copy.parent / "evaluation" / "test" / "overview")
    assert overview.tables["history"]["val/loss"].notna().all()  # of metrics.csv
    assert all(metric.value is not None for metric in overview.metrics.values())


@pytest.mark.usefixtures("curve")
def test_many_warnings_are_one_line_beside_those_of_leakage(tmp_path, capsys):
    few, many = result("few"), result("many")
    few.warnings = [Reason("one"), Reason("two")]
    many.warnings = [Reason("leaks"), *(Reason(f"warning_{number}") for number in range(9))]
    many.provenance["leakage"] = [Reason("leaks").plain]
    lines = []
    for each in (few, many):
        with ResultWriter() as saving:
            saving.add(each, tmp_path / "a" / "b" / each.block)
        lines.append(capsys.readouterr().err.splitlines())
    assert sum(line.startswith("warning: ") for line in lines[0]) == 2
    leak, rest = lines[1]
    assert leak.endswith("many: leaks")
    assert rest == "9 other warnings: see the report, or metrics.json of each block"
