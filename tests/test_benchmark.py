"""Benchmark: its parts, the content of its table and JSON, and measurements against those of a process."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
PARTS = ("startup", "duplicates")  # the others go the same way, and take minutes each
BUSY = "import time; start = time.process_time()\nwhile time.process_time() < start + 0.5: pass"
HELD = "import subprocess, sys; held = bytearray(80 << 20); subprocess.run([sys.executable, '-c', sys.argv[1]])"
HELD_BELOW = "import time; held = bytearray(60 << 20); time.sleep(1)"


@pytest.fixture
def rounds(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import rounds

    return rounds


def test_outside_an_environment_it_runs_in_that_of_the_other_scripts_or_says_why_not(tmp_path):
    shutil.copytree(SCRIPTS, tmp_path / "scripts")
    python = tmp_path / ".venv" / "bin" / "python"
    making = f'make_environment() {{ mkdir -p "{python.parent}"; cp "{tmp_path}/python" "{python}"; echo made $1; }}\n'
    (tmp_path / "scripts" / "environment").write_text(making, encoding="utf-8")
    (tmp_path / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n', encoding="utf-8")
    (tmp_path / "python").chmod(0o755)
    script = str(tmp_path / "scripts" / "benchmark")
    bare = [sys.executable, "-I", "-S", script, "predict", "--json", "a file.json"]  # a Python without packages
    done = subprocess.run(bare, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "made demo\n")
    assert done.stdout.splitlines() == [script, "predict", "--json", "a file.json"]
    shutil.rmtree(tmp_path / ".venv")
    (tmp_path / "scripts" / "environment").write_text("make_environment() { echo no python >&2; exit 1; }\n")
    done = subprocess.run(bare, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "no python\n")


@pytest.mark.slow
def test_an_interrupted_benchmark_leaves_no_folder_and_no_traceback(tmp_path):
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        process = subprocess.Popen(
            [sys.executable, str(SCRIPTS / "benchmark"), "startup", "--quick"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"TMPDIR": str(tmp_path)},
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell has it ignored
        )
        assert process.stdout is not None
        while "### startup" not in process.stdout.readline():
            assert process.poll() is None
        os.killpg(process.pid, number)
        _, said = process.communicate()
        assert (process.returncode, "Traceback" in said) == (code, False), said
        assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("what", ["copies", "bootstrap", "evaluate", "prepare"])
def test_large_tables_are_simulated(what):
    command = [sys.executable, str(SCRIPTS / "large_tables.py"), what, "2000"]
    measured = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert len(measured) >= 2
    assert all(value >= 0 for value in measured.values())
    assert measured.get("recall", 1) == 1


@pytest.mark.slow
def test_parts_tell_the_same_in_the_table_and_in_json_and_every_planted_copy_is_found(tmp_path):
    file = tmp_path / "written.json"
    command = [sys.executable, str(SCRIPTS / "benchmark"), *PARTS, "--quick", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    printed, written = done.stdout, json.loads(file.read_text(encoding="utf-8"))
    assert tuple(written["parts"]) == PARTS
    machine = written["machine"]
    assert {"processor", "cores", "versions", "load before", "load after"} <= set(machine)
    assert {"avatar_bench", "torch", "timm"} <= set(machine["versions"])
    assert machine["processor"] in printed.splitlines()[0]
    lines = printed.splitlines()
    for part, comparisons in written["parts"].items():
        assert f"### {part}" in lines
        for comparison in comparisons:
            assert comparison["failed"] == []
            head = lines.index(f"**{comparison['title']}**") + 2
            rows = [line.strip("|").split("|") for line in lines[head + 2 :][: len(comparison["ways"])]]
            assert [row[0].strip() for row in rows] == [way["way"] for way in comparison["ways"]]
            assert {len(row) for row in rows} == {lines[head].count("|") - 1}
            for way in comparison["ways"]:
                assert {"seconds", "processor seconds"} <= set(way["figures"])
                for figure in way["figures"].values():
                    assert figure["low"] <= figure["median"] <= figure["high"]
                    assert len(figure["rounds"]) == comparison["rounds"] == 1
    [comparison] = written["parts"]["duplicates"]
    figures = {way["way"]: way["figures"] for way in comparison["ways"]}["avatar_bench"]
    counts = {name: figures[name]["median"] for name in ("planted pairs found", "of", "other exact pairs")}
    assert counts == {"planted pairs found": 2, "of": 2, "other exact pairs": 0}


def test_a_command_is_measured_beside_itself_at_a_commit_and_what_changed_is_listed(rounds, tmp_path):
    answer = [sys.executable, "-c", "import os; print(os.environ['OF'])"]
    figure = {"old": iter((4.0, 6.0)), "new": iter((2.0, 3.0))}
    way = rounds.Way("a way", answer, lambda ended: {"seconds": next(figure[ended.lines[0][1]])})
    comparison = rounds.Comparison("task", [way, rounds.Way("timm", ["timm"])], beside=("timm",))
    [two] = rounds.pair(comparison, answer[:2], "abc", {"OF": "old"})
    result = rounds.measure(two, 2, tmp_path, {"OF": "new"})
    assert [way["way"] for way in result["ways"]] == ["abc", "here"]
    assert rounds.list_changes(result) == ["task: a way: abc / here (seconds) 2.00"]
    result["ways"][1]["ratios"]["seconds"]["abc"]["low"] = 0.9  # slower in one round
    assert rounds.list_changes(result) == []


def test_ways_are_taken_in_turn_and_set_in_relation_by_their_medians(rounds, tmp_path):
    note = "import pathlib, sys; file = pathlib.Path('order'); file.open('a').write(sys.argv[1])"
    printed = {"a": iter((2.0, 6.0, 4.0)), "b": iter((1.0, 2.0, 8.0))}
    ways = [
        rounds.Way(name, [sys.executable, "-c", note, name], lambda ended, name=name: {"seconds": next(printed[name])})
        for name in "ab"
    ]
    ways.append(rounds.Way("c", [sys.executable, "-c", "raise SystemExit('no such thing')"]))
    measured = rounds.measure(rounds.Comparison("letters", ways, beside=("a", "c")), 3, tmp_path, {})
    assert (tmp_path / "order").read_text() == "ababab"
    a, b = measured["ways"]
    assert a["figures"]["seconds"] == {"median": 4.0, "low": 2.0, "high": 6.0, "rounds": [2.0, 6.0, 4.0]}
    assert b["ratios"] == {"seconds": {"a": {"median": 4.0 / 2.0, "low": 4.0 / 8.0, "high": 6.0 / 2.0}}}
    assert measured["failed"] == ["c failed with 1: no such thing"]
    assert "| b | 2.00 (1.00–8.00) |" in rounds.table(measured)


def test_the_processor_time_is_that_of_the_process(rounds, tmp_path):
    ended = rounds.run([sys.executable, "-c", BUSY], tmp_path, {})
    assert 0.5 <= ended.processor < 1
    assert ended.seconds >= ended.processor * 0.9


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells the memory that processes share on Linux alone")
def test_the_peak_is_that_of_all_processes_together(rounds, tmp_path):
    alone, both = (
        rounds.run([sys.executable, "-c", HELD, below], tmp_path, {}, memory=True).peak
        for below in ("import time; time.sleep(1)", HELD_BELOW)
    )
    assert both - alone == pytest.approx(60, abs=3)
    assert 80 < alone < 110  # plus two interpreters
