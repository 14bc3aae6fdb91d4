"""predict interrupted by a signal, a kill or a full disk, and continued."""

import os
import shutil
import signal
import subprocess
import time
from functools import cache, partial

import pandas as pd
import pytest
from PIL import Image

from avatar_bench.cli.app import main
from avatar_bench.files.table_io import read_csv
from avatar_bench.inference.prediction_writer import PredictionWriter, find_remaining
from avatar_bench.reporting.prediction_outputs import read_predictions

LINES = 400


@pytest.fixture(scope="module")
def words(tiny_run, images, tmp_path_factory):
    """Start predict on a list that names a few images many times, and two files that are not images."""
    files = [str(file) for file in sorted((images / "blind").rglob("*.*"))] + ["gone.png", str(images / "all.csv")]
    names = tmp_path_factory.mktemp("list") / "list.txt"
    names.write_text("\n".join((files * LINES)[:LINES]), encoding="utf-8")
    return ["predict", f"ckpt={tiny_run}", f"input=@{names}", "batch_size=8", "workers=2"]


@pytest.fixture(scope="module")
def whole(words, tmp_path_factory):
    """Return a function that returns the output of an undisturbed command by its suffix."""

    @cache
    def predict(suffix):
        file = tmp_path_factory.mktemp("whole") / f"whole.{suffix}"
        assert main([*words, f"output={file}"]) == 3
        return file.read_bytes()

    return predict


@pytest.fixture
def slow_fork(fork, slow):
    """Begin a command in a fork whose rows take seconds to write."""
    return partial(fork, before=slow(PredictionWriter, "add"))


def has_rows(file, n):
    return file.exists() and file.read_bytes().count(b"\n") > n


@pytest.mark.parametrize(
    ("number", "code", "times", "to_group", "suffix"),
    [
        (signal.SIGINT, 130, 1, True, "csv"),  # as a terminal sends it: to the workers too
        pytest.param(signal.SIGTERM, 143, 1, False, "jsonl", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, 3, True, "jsonl", marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_output_keeps_whole_rows_and_ends_as_an_undisturbed_one(
    number, code, times, to_group, suffix, words, whole, slow_fork, tmp_path
):
    cut = tmp_path / f"cut.{suffix}"
    child = slow_fork(*words, f"output={cut}")
    child.until(lambda: has_rows(cut, 40))
    for _ in range(times):
        os.killpg(child.pid, number) if to_group else child.send(number)
        time.sleep(0.02)
    assert child.end() == code
    rows = cut.read_bytes().count(b"\n") - (suffix == "csv")
    assert whole(suffix).startswith(cut.read_bytes())
    assert cut.read_bytes().endswith(b"\n")
    advice = "continue with the same command and update=true."
    assert child.said == f"{cut}: {rows} rows are written; {advice}\ninterrupted\n"
    assert not list(tmp_path.glob("*.lock"))
    assert main([*words, f"output={cut}", "update=true"]) == 3
    assert cut.read_bytes() == whole(suffix)


def test_a_killed_worker_ends_the_command_with_its_reason_and_keeps_the_rows(words, slow_fork, tmp_path):
    cut = tmp_path / "cut.csv"
    child = slow_fork(*words, f"output={cut}")
    child.until(lambda: has_rows(cut, 40))
    os.kill(child.workers()[0], signal.SIGKILL)
    assert child.end() == 5, child.said
    lines = child.said.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"{cut}: {cut.read_bytes().count(10) - 1} rows are written; ")
    assert lines[1] == "An image-loading process was killed from outside."


@pytest.mark.slow
def test_a_replacement_that_was_cut_short_leaves_the_earlier_output_and_is_continued(words, whole, slow_fork, tmp_path):
    earlier = tmp_path / "earlier.csv"
    earlier.write_text("path,status,prediction\n")
    child = slow_fork(*words, f"output={earlier}")
    child.until(lambda: has_rows(tmp_path / "earlier.csv.part", 40))
    child.send(signal.SIGINT)
    assert child.end() == 130
    assert earlier.read_text() == "path,status,prediction\n"
    assert main([*words, f"output={earlier}", "update=true"]) == 3
    assert earlier.read_bytes() == whole("csv")
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.slow
def test_a_second_process_is_kept_from_an_output_until_the_first_is_dead(words, slow_fork, tmp_path, command):
    output = tmp_path / "out.csv"
    child = slow_fork(*words, f"output={output}")
    child.until(lambda: has_rows(output, 8))
    child.send(signal.SIGSTOP)  # it shall not end before the second has begun
    err = command(*words, f"output={output}", "update=true", code=5).err
    assert "another process is writing it" in err
    child.kill()
    command(*words, f"output={output}", "update=true", code=3)
    assert len(read_csv(output)) == LINES


@pytest.mark.parametrize("suffix", ["csv", pytest.param("jsonl", marks=pytest.mark.slow), "parquet"])
def test_update_takes_odd_names_and_refuses_the_rows_of_another_checkpoint(suffix, run_pair, images, tmp_path, command):
    image = next((images / "blind" / "real").rglob("*.jpg"))
    names = [b"=1+1.jpg", b"@a.jpg", b"'b.jpg", b'c\n"d".jpg', b"e\rf.jpg", b"g\xff.jpg", b"h,i.jpg"]
    (tmp_path / "odd").mkdir()
    for name in names:
        shutil.copy(image, os.path.join(os.fsencode(tmp_path / "odd"), name))
    output = tmp_path / f"out.{suffix}"
    words = ["predict", f"input={tmp_path / 'odd'}", f"output={output}", "workers=0"]
    command(*words, f"ckpt={run_pair[0]}")
    before = output.read_bytes()
    assert "another checkpoint" in command(*words, f"ckpt={run_pair[1]}", "update=true", code=2).err
    command(*words, f"ckpt={run_pair[0]}", "update=true")
    assert output.read_bytes() == before
    if suffix == "csv":
        paths = read_csv(output, encoding_errors="surrogateescape", dtype=object)["path"]
        assert {os.path.basename(os.fsencode(path)) for path in paths} == set(names)
    elif suffix == "parquet":
        assert str(tmp_path / "odd" / "g\\xff.jpg") in set(pd.read_parquet(output)["path"])


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_update_predicts_changed_files_again_and_replaces_their_rows(suffix, tiny_run, images, tmp_path, command):
    folder = tmp_path / "in"
    folder.mkdir()
    for file in sorted((images / "blind" / "real" / "new-real").iterdir())[:3]:
        shutil.copy2(file, folder)
    names = ["a.png", 'b, \n"c".png', "d.png", "e.png", "f.png"]
    for name in names:
        Image.new("RGB", (40, 40), (150, 60, 200)).save(folder / name)
    output = tmp_path / f"out.{suffix}"
    words = ["predict", f"ckpt={tiny_run}", f"input={folder}", f"output={output}"]
    words += ["workers=0", "batch_size=1", "runtime=torch"]
    command(*words)
    before = read_predictions(str(output)).set_index("path")
    newer, larger, older, same, gone = (folder / name for name in names)
    Image.new("RGB", (40, 40), (255, 255, 250)).save(newer)
    modified = larger.stat().st_mtime_ns
    for file in (larger, older):
        shutil.copy(newer, file)
    os.utime(larger, ns=(modified, modified))
    os.utime(older, (1e9, 1e9))
    gone.unlink()  # its row is what is known of it
    assert "3 rows of changed files replaced" in command(*words, "update=true").out
    after = read_predictions(str(output)).set_index("path")
    assert sorted(after.index) == sorted(before.index)
    changed = (after["confidence"] - before["confidence"][after.index]).abs() > 1e-9
    assert set(after.index[changed]) == {str(newer), str(larger), str(older)}
    content = output.read_bytes()
    command(*words, "update=true")
    assert output.read_bytes() == content
    (tmp_path / f".{output.name}.stamps").unlink()  # an output of an earlier version has none
    Image.new("RGB", (40, 40), (255, 0, 0)).save(same)
    os.utime(same, (output.stat().st_mtime + 1,) * 2)
    assert "1 row of changed files replaced" in command(*words, "update=true").out


def test_an_error_is_gone_once_the_file_is_there(tiny_run, images, tmp_path):
    image, late = next((images / "blind" / "real").rglob("*.jpg")), tmp_path / "late.jpg"
    (tmp_path / "list.txt").write_text(f"{image}\n{late}\n", encoding="utf-8")
    words = ["predict", f"ckpt={tiny_run}", f"input=@{tmp_path / 'list.txt'}", f"output={tmp_path / 'out.csv'}"]
    assert main([*words, "workers=0"]) == 3
    shutil.copy2(image, late)  # which is older than the output
    assert main([*words, "workers=0", "update=true"]) == 0
    assert read_csv(tmp_path / "out.csv")["status"].tolist() == ["ok", "ok"]


@pytest.mark.slow
def test_a_full_disk_ends_with_5_and_whole_rows(words, whole, small_disk, command):
    output, filling = small_disk / "out.csv", small_disk / "filling"
    filling.write_bytes(bytes(shutil.disk_usage(small_disk).free - 2**15))
    lines = command(*words, f"output={output}", code=5).err.splitlines()
    rows = output.read_bytes().count(b"\n") - 1
    assert lines == [
        f"{output}: {rows} rows are written; continue with the same command and update=true.",
        f"output={output} cannot be written: No space left on device.",
        "Free some space, or choose another file: output=FILE",
    ]
    assert output.read_bytes().endswith(b"\n")
    assert rows % 8 == 0
    filling.unlink()
    command(*words, f"output={output}", "update=true", code=3)
    assert output.read_bytes() == whole("csv")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    command(*words, f"output={small_disk / 'b.csv'}", code=5)


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
