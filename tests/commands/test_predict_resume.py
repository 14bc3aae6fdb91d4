"""Tests of predict interrupted by a signal, a kill or a full disk, and continued."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from avatar_bench.cli.app import main
from avatar_bench.files.table_io import read_csv
from avatar_bench.inference.prediction_writer import find_remaining
from avatar_bench.reporting.prediction_outputs import read_predictions

LINES = 400
WAIT = 120  # seconds, for a machine that has much else to do


@pytest.fixture(scope="module")
def words(tiny_run, images, tmp_path_factory):
    """Start predict on a list that names a few images many times, and two files that are not images."""
    files = [str(file) for file in sorted((images / "blind").rglob("*.*"))] + ["gone.png", str(images / "all.csv")]
    named = tmp_path_factory.mktemp("list") / "list.txt"
    named.write_text("\n".join((files * LINES)[:LINES]), encoding="utf-8")
    return ["predict", f"ckpt={tiny_run}", f"input=@{named}", "batch_size=8", "workers=2"]


@pytest.fixture(scope="module")
def whole(words, tmp_path_factory):
    """Return the outputs of undisturbed commands by their endings."""
    files = [tmp_path_factory.mktemp("whole") / f"whole.{ending}" for ending in ("csv", "jsonl")]
    for file in files:
        assert main([*words, f"output={file}"]) == 3
    return {file.suffix[1:]: file.read_bytes() for file in files}


@pytest.fixture
def begin(tmp_path):
    """Run a command in a process of its own, which has what this one has loaded; its words go to tmp_path/told."""
    begun = []

    def run(words):
        if pid := os.fork():
            begun.append(pid)
            return pid
        os.setsid()
        with (tmp_path / "told").open("wb") as printed:
            os.dup2(printed.fileno(), 1)
            os.dup2(printed.fileno(), 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code: Any = 1
        try:
            code = main(words)
        except SystemExit as end:
            code = end.code
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    yield run
    for pid in begun:
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def until(file, rows):
    """Wait until an output has so many rows."""
    for _ in range(WAIT * 100):
        if file.exists() and file.read_bytes().count(b"\n") > rows:
            return
        time.sleep(0.01)
    raise AssertionError(f"{file} has no {rows} rows after {WAIT} s")


def end(pid):
    """Wait for a process, and give its exit code, or the signal that killed it, below zero."""
    for _ in range(WAIT * 100):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    raise AssertionError(f"the process has not ended after {WAIT} s")


def workers_of(pid):
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize(
    ("how", "code", "times", "group", "ending"),
    [
        (signal.SIGINT, 130, 1, True, "csv"),  # as a terminal sends it: to the workers too
        (signal.SIGTERM, 143, 1, False, "jsonl"),
        (signal.SIGINT, 130, 3, True, "jsonl"),
    ],
)
def test_an_interrupted_output_keeps_whole_rows_and_ends_as_an_undisturbed_one(
    how, code, times, group, ending, words, whole, begin, tmp_path
):
    cut = tmp_path / f"cut.{ending}"
    process = begin([*words, f"output={cut}"])
    until(cut, 40)
    for _ in range(times):
        os.killpg(process, how) if group else os.kill(process, how)
        time.sleep(0.02)
    assert end(process) == code
    rows = cut.read_bytes().count(b"\n") - (ending == "csv")
    assert whole[ending].startswith(cut.read_bytes())
    assert cut.read_bytes().endswith(b"\n")
    assert (tmp_path / "told").read_text() == (
        f"{cut}: {rows} rows are written; continue with the same command and update=true.\n"
    )
    assert not list(tmp_path.glob("*.lock"))
    assert main([*words, f"output={cut}", "update=true"]) == 3
    assert cut.read_bytes() == whole[ending]


@pytest.mark.slow
def test_kills_at_random_moments_lose_and_repeat_nothing(words, whole, begin, tmp_path):
    cut = tmp_path / "cut.csv"
    rng, kills = random.Random(0), 0
    while kills < 3:
        process = begin([*words, f"output={cut}", "update=true"])
        before = cut.stat().st_size if cut.exists() else 0
        while not cut.exists() or cut.stat().st_size <= before:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.1))
        os.kill(process, signal.SIGKILL)
        ended = end(process)
        assert ended in (-signal.SIGKILL, 3)  # it may have been done before
        kills += ended == -signal.SIGKILL
        if cut.read_bytes() == whole["csv"]:
            cut.unlink()
    assert main([*words, f"output={cut}", "update=true"]) == 3
    assert cut.read_bytes() == whole["csv"]
    assert not list(tmp_path.glob("*.lock"))


def test_a_killed_worker_ends_the_command_with_two_lines_and_keeps_the_rows(words, begin, tmp_path):
    cut = tmp_path / "cut.csv"
    process = begin([*words, f"output={cut}"])
    until(cut, 40)
    os.kill(workers_of(process)[0], signal.SIGKILL)
    code = end(process)
    printed = (tmp_path / "told").read_text().splitlines()
    assert code == 5, printed
    assert printed[0].startswith(f"{cut}: {cut.read_bytes().count(10) - 1} rows are written; ")
    assert printed[1] == "An image-loading process was killed from outside."
    assert len(printed) == 3


def test_a_replacement_that_was_cut_short_leaves_the_earlier_output_and_is_gone_on_with(words, whole, begin, tmp_path):
    earlier = tmp_path / "earlier.csv"
    earlier.write_text("path,status,prediction\n")
    process = begin([*words, f"output={earlier}"])
    until(tmp_path / "earlier.csv.part", 40)
    os.kill(process, signal.SIGINT)
    assert end(process) == 130
    assert earlier.read_text() == "path,status,prediction\n"
    assert main([*words, f"output={earlier}", "update=true"]) == 3
    assert earlier.read_bytes() == whole["csv"]
    assert not list(tmp_path.glob("*.part"))


def test_update_refuses_the_rows_of_another_checkpoint(train, tiny_run, images, tmp_path, capsys):
    other = train(tmp_path / "other", "trainer=debug")
    for ending in ("csv", "jsonl", "parquet"):
        output = tmp_path / f"out.{ending}"
        given = ["predict", f"input={images / 'blind' / 'real'}", f"output={output}", "workers=0"]
        assert main([*given, f"ckpt={tiny_run}"]) == 0
        before = output.read_bytes()
        capsys.readouterr()
        assert main([*given, f"ckpt={other}", "update=true"]) == 2
        assert "another checkpoint" in capsys.readouterr().err
        assert main([*given, f"ckpt={tiny_run}", "update=true"]) == 0
        assert ending == "parquet" or output.read_bytes() == before


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_update_predicts_changed_files_again_and_replaces_their_rows(ending, tiny_run, images, tmp_path, capsys):
    shutil.copytree(images / "blind" / "real" / "new-real", tmp_path / "in")
    names = ["a.png", 'b, \n"c".png', "d.png", "e.png", "f.png"]
    for name in names:
        Image.new("RGB", (40, 40), (150, 60, 200)).save(tmp_path / "in" / name)
    output = tmp_path / f"out.{ending}"
    given = ["predict", f"ckpt={tiny_run}", f"input={tmp_path / 'in'}", "workers=0", "batch_size=1", "runtime=torch"]
    assert main([*given, f"output={output}"]) == 0
    before = read_predictions(str(output)).set_index("path")
    newer, larger, older, same = (tmp_path / "in" / name for name in names[:4])
    Image.new("RGB", (40, 40), (255, 255, 250)).save(newer)
    time = larger.stat().st_mtime_ns
    for file in (larger, older):
        shutil.copy(newer, file)
    os.utime(larger, ns=(time, time))
    os.utime(older, (1e9, 1e9))
    (tmp_path / "in" / "f.png").unlink()  # its row is what is known of it
    capsys.readouterr()
    assert main([*given, f"output={output}", "update=true"]) == 0
    assert "3 rows of changed files replaced" in capsys.readouterr().out
    after = read_predictions(str(output)).set_index("path")
    assert sorted(after.index) == sorted(before.index)
    changed = (after["confidence"] - before["confidence"][after.index]).abs() > 1e-9
    assert set(after.index[changed]) == {str(newer), str(larger), str(older)}
    assert same.is_file()
    content = output.read_bytes()
    assert main([*given, f"output={output}", "update=true"]) == 0
    assert output.read_bytes() == content
    (tmp_path / f".{output.name}.stamps").unlink()  # an output of an earlier version has none
    Image.new("RGB", (40, 40), (255, 0, 0)).save(same)
    os.utime(same, (time := output.stat().st_mtime + 1, time))
    capsys.readouterr()
    assert main([*given, f"output={output}", "update=true"]) == 0
    assert "1 row of changed files replaced" in capsys.readouterr().out


def test_an_error_is_gone_once_the_file_is_there(tiny_run, images, tmp_path):
    image = next((images / "blind" / "real").rglob("*.jpg"))
    (tmp_path / "list.txt").write_text(f"{image}\n{tmp_path / 'late.jpg'}\n", encoding="utf-8")
    given = ["predict", f"ckpt={tiny_run}", f"input=@{tmp_path / 'list.txt'}", f"output={tmp_path / 'out.csv'}"]
    assert main([*given, "workers=0"]) == 3
    shutil.copy2(image, tmp_path / "late.jpg")  # which is older than the output
    assert main([*given, "workers=0", "update=true"]) == 0
    assert read_csv(tmp_path / "out.csv")["status"].tolist() == ["ok", "ok"]


def test_update_takes_names_that_are_hard_to_write_for_what_they_are(tiny_run, images, tmp_path):
    image = next((images / "blind" / "real").rglob("*.jpg"))
    names = [b"=1+1.jpg", b"@a.jpg", b"'b.jpg", b'c\n"d".jpg', b"e\rf.jpg", b"g\xff.jpg", b"h,i.jpg"]
    (tmp_path / "odd").mkdir()
    for name in names:
        shutil.copy(image, os.path.join(os.fsencode(tmp_path / "odd"), name))
    for ending in ("csv", "jsonl", "parquet"):
        output = tmp_path / f"out.{ending}"
        given = ["predict", f"ckpt={tiny_run}", f"input={tmp_path / 'odd'}", f"output={output}", "workers=0"]
        assert main(given) == 0
        before = output.read_bytes()
        assert main([*given, "update=true"]) == 0
        assert output.read_bytes() == before
    paths = read_csv(tmp_path / "out.csv", encoding_errors="surrogateescape", dtype=object)["path"]
    assert {os.path.basename(os.fsencode(path)) for path in paths} == set(names)
    printed = pd.read_parquet(tmp_path / "out.parquet")["path"]
    assert str(tmp_path / "odd" / "g\\xff.jpg") in set(printed)


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="mounts a small disk, as root")
@pytest.mark.slow
def test_a_full_disk_ends_with_5_and_whole_rows(words, whole, tmp_path, capsys):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", disk], check=False).returncode:
        pytest.skip("cannot mount")
    try:
        output = disk / "out.csv"
        assert main([*words, f"output={output}"]) == 5
        err = capsys.readouterr().err.splitlines()
        rows = output.read_bytes().count(b"\n") - 1
        assert err == [
            f"{output}: {rows} rows are written; continue with the same command and update=true.",
            f"output={output} cannot be written: No space left on device.",
            "Free some space, or choose another file: output=FILE",
        ]
        assert output.read_bytes().endswith(b"\n")
        assert rows % 8 == 0
        subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        assert main([*words, f"output={output}", "update=true"]) == 3
        assert output.read_bytes() == whole["csv"]
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        assert main([*words, f"output={disk / 'b.csv'}"]) == 5
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_second_process_is_kept_from_an_output_and_a_dead_one_lets_go(words, begin, tmp_path, capsys):
    output = tmp_path / "out.csv"
    process = begin([*words, f"output={output}"])
    until(output, 8)
    assert main([*words, f"output={output}", "update=true"]) == 5
    assert "another process is writing it" in capsys.readouterr().err
    os.kill(process, signal.SIGKILL)
    assert end(process) == -signal.SIGKILL
    assert main([*words, f"output={output}", "update=true"]) == 3
    assert len(read_csv(output)) == LINES


def test_what_is_missing_begins_with_the_batch_that_was_cut():
    files = [f"{number}" for number in range(10)]
    assert find_remaining(files, files, [], 4) == (files, 0)
    assert find_remaining(files, files, files[:6], 4) == (files[4:], 2)
    assert find_remaining(files, files, files[:8], 4) == (files[8:], 0)
    assert find_remaining(files, files, files, 4) == ([], 0)
    assert find_remaining(files, files, [*files, "x"], 4) == ([], 0)
    files = ["a", "b", "a", "c", "a"]  # a file that is named twice has two rows
    assert find_remaining(files, files, ["b", "a"], 4) == (["a", "c", "a"], 0)
    assert find_remaining(files, files, ["a", "b", "a"], 3) == (["c", "a"], 0)
