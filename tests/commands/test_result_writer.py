"""Results that are saved beside the evaluation: the same files, in order, and nothing half written however it ends."""

import json
import os
import shutil
import signal
import time
from typing import Any

import pytest
from matplotlib.figure import Figure

from avatar_bench.cli.app import main
from avatar_bench.evaluation import result_writer
from avatar_bench.evaluation.result_writer import ResultWriter
from avatar_bench.results import result as results
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric, Result

DRAWS = True
BLOCKS = ["blind_test", "calibration", "error_bias"]
WORDS = [f"block=[{','.join(BLOCKS)}]", "data.workers=0", *(f"block.{name}.resamples=100" for name in BLOCKS)]


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


def content(folder):
    """Return each file of the results below a folder by its name; metrics.json without times and places."""
    files = sorted(folder.glob("evaluation/*/*/**/*.*"))
    collected: dict[str, Any] = {str(file.relative_to(folder)): file.read_bytes() for file in files}
    for name in [name for name in collected if name.endswith("metrics.json")]:
        collected[name] = json.loads(collected[name])
        collected[name]["provenance"] = {
            key: value for key, value in collected[name]["provenance"].items() if not key.startswith("seconds")
        }
    return collected


def test_the_files_are_those_that_the_evaluation_itself_would_write(tiny_run, tmp_path, monkeypatch):
    writers = tmp_path / "writers"
    save = Result.save

    def told(one, folder, *drawn):
        with writers.open("a") as stream:
            stream.write(f"{folder.name} {os.getpid() == here}\n")
        return save(one, folder, *drawn)

    here = os.getpid()
    monkeypatch.setattr(Result, "save", told)
    assert main(["evaluate", f"ckpt={tiny_run}", *WORDS, f"out={tmp_path / 'beside'}"]) == 0
    assert sorted(writers.read_text().splitlines()) == ["blind_test False", "calibration False", "error_bias True"]
    monkeypatch.setattr(result_writer._PendingResult, "start", lambda entry: None)
    assert main(["evaluate", f"ckpt={tiny_run}", *WORDS, f"out={tmp_path / 'itself'}"]) == 0
    assert content(tmp_path / "beside") == content(tmp_path / "itself")


@pytest.mark.usefixtures("curve")
def test_results_are_told_in_order_and_once_they_are_there(tmp_path, monkeypatch):
    draw = results._save_figure
    printed = []

    def slowly(figure, stem):
        time.sleep(0.5 * ("first" in stem.parent.name))
        draw(figure, stem)

    def print_line(line, **options):
        name = next(name for name in names if f"{name}:" in line)
        assert Result.load_if_complete(tmp_path / name)
        printed.append(name)

    monkeypatch.setattr(results, "_save_figure", slowly)
    monkeypatch.setattr(result_writer, "print_line", print_line)
    names = ["first", "second", "there", "fourth", "last"]
    result("there").save(tmp_path / "there")
    with ResultWriter() as saving:
        for name in names:
            saving.begin()
            saving.add(result(name), tmp_path / name, there=name == "there")
    assert printed == names


@pytest.mark.usefixtures("curve")
def test_what_cannot_be_pickled_is_saved_and_what_a_process_cannot_write_is_saved_here(tmp_path, monkeypatch):
    here, write = os.getpid(), Result._write

    def fail(one, part):
        if one.block == "unlucky" and os.getpid() != here:
            raise OSError("no room")
        write(one, part)

    monkeypatch.setattr(Result, "_write", fail)
    own = result("own")
    own.provenance = Unpicklable({"seed": 1})
    with ResultWriter() as saving:
        for one in (own, result("unlucky"), result("last")):
            saving.begin()
            saving.add(one, tmp_path / one.block)
    assert all(Result.load_if_complete(tmp_path / name) for name in ("own", "unlucky", "last"))
    assert len(list(tmp_path.iterdir())) == 3


def test_a_full_disk_ends_the_evaluation_and_leaves_nothing_half_written(tiny_run, small_disk, capsys):
    free = shutil.disk_usage(small_disk).free
    (small_disk / "filling").write_bytes(bytes(free - 2**15))  # enough for what is written first
    assert main(["evaluate", f"ckpt={tiny_run}", *WORDS, f"out={small_disk / 'out'}"]) == 5
    said = capsys.readouterr()
    assert f"{small_disk / 'out' / 'evaluation' / 'test' / 'blind_test'} cannot be written: No space left" in said.err
    assert "error_bias" not in said.out
    assert not list((small_disk / "out").rglob("*.*"))


def test_a_signal_leaves_no_half_written_result_and_no_process(tiny_run, fork, tmp_path, monkeypatch):
    def slowly(figure, stem):
        stem.with_suffix(".png").touch()
        (tmp_path / "writes").touch()
        time.sleep(600)

    monkeypatch.setattr(results, "_save_figure", slowly)
    out = tmp_path / "out"
    child = fork("evaluate", f"ckpt={tiny_run}", *WORDS, f"out={out}")
    child.until((tmp_path / "writes").exists)
    begun = time.monotonic()
    os.killpg(child.pid, signal.SIGINT)  # as a terminal sends it: to the processes that write too
    assert child.end() == 130
    assert time.monotonic() - begun < 5
    assert "Traceback" not in child.said
    printed = "the results above are saved; run the command again, without again=true, for the rest"
    assert f"interrupted: {printed}" in child.said
    assert list((out / "evaluation" / "test").iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.killpg(child.pid, 0)


def test_a_block_that_reads_results_finds_all_of_them(run_copy, tmp_path, monkeypatch):
    draw = results._save_figure

    def slowly(figure, stem):
        time.sleep(0.3)
        draw(figure, stem)

    monkeypatch.setattr(results, "_save_figure", slowly)
    words = [f"ckpt={run_copy}", "block=[blind_test,overview]", "block.blind_test.resamples=100", "data.workers=0"]
    assert main(["evaluate", *words]) == 0
    found = Result.load(next(run_copy.parent.rglob("evaluation/test/overview")))
    assert [sorted(read) for read in found.provenance["read"]] == [["blind_test"]]
    assert found.tables["history"]["val/loss"].notna().all()  # of metrics.csv
    assert all(metric.value is not None for metric in found.metrics.values())


@pytest.mark.usefixtures("curve")
def test_many_warnings_are_one_line_beside_those_of_leakage(tmp_path, capsys):
    few, many = result("few"), result("many")
    few.warnings = [Reason("one"), Reason("two")]
    with ResultWriter() as saving:
        saving.add(few, tmp_path / "a" / "b" / "few")
    assert capsys.readouterr().err.count("warning: ") == 2
    many.warnings = [Reason("leaks"), *(Reason(f"warning_{number}") for number in range(9))]
    many.provenance["leakage"] = [Reason("leaks").plain]
    with ResultWriter() as saving:
        saving.add(many, tmp_path / "a" / "b" / "many")
    leak, rest = capsys.readouterr().err.splitlines()
    assert leak.endswith("many: leaks")
    assert rest == "9 other warnings: see the report, or metrics.json of each block"
