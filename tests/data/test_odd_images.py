"""Tests of the image loader on odd and hostile files: no incorrect result, no traceback, little time and memory."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from avatar_bench.cli.app import main
from avatar_bench.data.dataset import read_folder
from avatar_bench.data.decoding import decode, decode_bytes
from avatar_bench.errors import DataError
from tests.builders.pixels import encode
from tests.data.odd_images import BOMBS, RGB, corpus

# pytest resets the filter that decode.py sets when it is imported; subprocesses below check that one.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]

# what decodes takes up to 3 s of processor time on a quiet machine, a bomb that is let through minutes
SECONDS, MEMORY = 20, 1.5 * 2**30
DECODE = """
import json, sys, time
from pathlib import Path
from avatar_bench.data.decoding import decode
from avatar_bench.errors import DataError
for file in sorted(Path(sys.argv[1]).iterdir()):
    begun = time.process_time()
    try:
        outcome = decode(file).shape
    except DataError as error:
        outcome = error.lines
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024
    print(json.dumps([file.name, outcome, time.process_time() - begun, peak]))
assert "torch" not in sys.modules
"""


def decode_apart(folder):
    """Decode a folder in a process of its own: by name the shape or reason, seconds of CPU and peak memory so far."""
    command = [sys.executable, "-W", "always", "-c", DECODE, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return {name: tuple(measured) for name, *measured in map(json.loads, done.stdout.splitlines())}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The corpus in a folder; never write into it."""
    folder = tmp_path_factory.mktemp("odd")
    for name, odd in corpus().items():
        (folder / name).write_bytes(odd.data)
    return folder


@pytest.mark.parametrize("kind", corpus())
def test_an_odd_image_gives_its_pixels_or_the_reason_why_not(kind):
    odd = corpus()[kind]
    if odd.pixels is None:
        with pytest.raises(DataError) as caught:
            decode_bytes(odd.data, odd.name)
        assert caught.value.lines[0].startswith(f"{odd.name}: ")
        assert odd.reason in caught.value.lines[0]
        assert len(caught.value.lines) <= 3
    else:
        pixels = decode_bytes(odd.data, odd.name)
        assert (pixels.shape, pixels.dtype) == (odd.pixels.shape, np.uint8)
        assert np.abs(pixels.astype(int) - odd.pixels).max() <= odd.tolerance
        assert pixels.flags.writeable
        assert pixels.flags.c_contiguous


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's own figures")
def test_the_corpus_takes_little_and_writes_nothing(folder):
    decoded = decode_apart(folder)
    assert decoded.keys() == corpus().keys()
    for name, (outcome, seconds, peak) in decoded.items():
        pixels = corpus()[name].pixels
        assert (outcome == list(pixels.shape)) if pixels is not None else isinstance(outcome[0], str), name
        assert seconds < SECONDS, name
        assert peak < MEMORY, name


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's own figures")
@pytest.mark.parametrize("kind", BOMBS)
def test_the_costliest_images_take_seconds_and_under_1_5_gib(kind, tmp_path):
    make, expected = BOMBS[kind]
    (tmp_path / kind).write_bytes(make())
    outcome, seconds, peak = decode_apart(tmp_path)[kind]
    (tmp_path / kind).unlink()
    assert seconds < SECONDS
    assert peak < MEMORY
    assert expected in outcome[0] if isinstance(expected, str) else outcome == [*expected, 3]


def test_predict_gives_each_odd_image_its_row_and_no_more(folder, tiny_run, tmp_path, capfd):
    output = tmp_path / "out.csv"
    assert main(["predict", f"ckpt={tiny_run}", f"input={folder}", f"output={output}", "workers=0"]) == 3
    assert "Traceback" not in capfd.readouterr().err
    rows = pd.read_csv(output, keep_default_na=False)
    statuses = {Path(path).name: status for path, status in zip(rows["path"], rows["status"], strict=True)}
    assert statuses == {name: "error" if odd.pixels is None else "ok" for name, odd in corpus().items()}


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as unix_socket, contextlib.chdir(path.parent):  # the path of a socket is short
        unix_socket.bind(path.name)


def test_special_files_are_refused_by_the_loader_and_by_a_walk(tmp_path):
    for name, make in (
        ("a pipe.png", os.mkfifo),
        ("a socket.png", make_socket),
        ("a link to nothing.png", lambda path: path.symlink_to("nowhere")),
        ("a link to itself.png", lambda path: path.symlink_to(path.name)),
        ("a link to a device.png", lambda path: path.symlink_to("/dev/zero")),
    ):
        file = tmp_path / "real" / name
        file.parent.mkdir(exist_ok=True)
        make(file)
        for read, path in ((decode, file), (read_folder, tmp_path)):
            with pytest.raises(DataError, match=name):
                read(path)
        file.unlink()


def test_files_of_any_name_are_decoded_and_named_on_one_line(tmp_path):
    names = ["upper.PNG", "wrong.jpg", "none", "кот, [1]=.gif", "-rf.png", "a\nb.png", "\x1b[31mred.png"]
    for file in (tmp_path / name for name in (*names, "é" * 125 + ".png")):
        file.write_bytes(encode(RGB, "PNG"))
        assert np.array_equal(decode(file), RGB)
        file.write_bytes(b"words")
        with pytest.raises(DataError) as caught:
            decode(file)
        assert len(caught.value.lines) == 2
        assert str(caught.value).replace("\n", "").isprintable()
