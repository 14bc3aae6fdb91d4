"""Tests of the image loader on odd and hostile files: no incorrect result, no traceback, little time and memory."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from avatar_bench.cli.app import main
from avatar_bench.data.dataset import read_folder
from avatar_bench.data.decoding import decode, decode_bytes
from avatar_bench.errors import DataError
from tests.data.bombs import BOMBS
from tests.data.odd_images import RGB, corpus, save

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
        found = decode(file).shape
    except DataError as error:
        found = error.lines
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024
    print(json.dumps([file.name, found, time.process_time() - begun, peak]))
assert "torch" not in sys.modules
"""


def decode_apart(folder: Path) -> dict[str, tuple[list[int] | list[str], float, int]]:
    """Decode a folder in a process of its own: by name the shape or reason, seconds of CPU and peak memory so far."""
    command = [sys.executable, "-W", "always", "-c", DECODE, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return {name: (found, seconds, peak) for name, found, seconds, peak in map(json.loads, done.stdout.splitlines())}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus in a folder; never write into it."""
    folder = tmp_path_factory.mktemp("odd")
    for name, odd in corpus().items():
        (folder / name).write_bytes(odd.data)
    return folder


@pytest.mark.parametrize("kind", corpus())
def test_an_odd_image_gives_its_pixels_or_the_reason_why_not(kind: str) -> None:
    odd = corpus()[kind]
    if odd.pixels is None:
        with pytest.raises(DataError) as caught:
            decode_bytes(odd.data, odd.name)
        assert caught.value.lines[0].startswith(f"{odd.name}: ")
        assert odd.reason in caught.value.lines[0]
        assert len(caught.value.lines) <= 3
    else:
        found = decode_bytes(odd.data, odd.name)
        assert (found.shape, found.dtype) == (odd.pixels.shape, np.uint8)
        assert np.abs(found.astype(int) - odd.pixels).max() <= odd.tolerance


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's own figures")
def test_the_corpus_takes_little_and_writes_nothing(folder: Path) -> None:
    found = decode_apart(folder)
    assert found.keys() == corpus().keys()
    for name, (outcome, seconds, peak) in found.items():
        pixels = corpus()[name].pixels
        assert (outcome == list(pixels.shape)) if pixels is not None else isinstance(outcome[0], str), name
        assert seconds < SECONDS, name
        assert peak < MEMORY, name


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's own figures")
@pytest.mark.parametrize("kind", BOMBS)
def test_the_costliest_images_take_seconds_and_under_1_5_gib(kind: str, tmp_path: Path) -> None:
    data, expected = BOMBS[kind]()
    (tmp_path / kind).write_bytes(data)
    del data
    outcome, seconds, peak = decode_apart(tmp_path)[kind]
    (tmp_path / kind).unlink()
    assert seconds < SECONDS
    assert peak < MEMORY
    if isinstance(expected, str):
        assert expected in str(outcome[0])
    else:
        assert outcome == [*expected, 3]


def test_predict_gives_each_odd_image_its_row_and_no_more(
    folder: Path, tiny_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.csv"
    assert main(["predict", f"ckpt={tiny_run}", f"input={folder}", f"output={output}", "workers=0"]) == 3
    assert "Traceback" not in capfd.readouterr().err
    rows = pd.read_csv(output, keep_default_na=False)
    statuses = {Path(path).name: status for path, status in zip(rows["path"], rows["status"], strict=True)}
    assert statuses == {name: "error" if odd.pixels is None else "ok" for name, odd in corpus().items()}


def test_prepare_keeps_the_valid_and_names_the_others(
    folder: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(images / "blind", root)
    given = {name: corpus()[name] for name in list(corpus())[::4]}  # of every format
    (root / "real" / "odd").mkdir()
    for name in given:
        shutil.copy(folder / name, root / "real" / "odd")
    words = [
        f"block.data_audit.{word}" for word in ("resamples=100", "folds=2", "equalised=false", "label_errors=false")
    ]
    assert main(["prepare", "source=folder", f"source.folder.root={root}", f"out={out}", *words]) == 0
    assert "Traceback" not in capsys.readouterr().err
    table = pd.read_csv(out / "quarantine.csv", keep_default_na=False)
    refused = {Path(name).name for name in table["file"]}
    valid = {name for name, odd in given.items() if odd.pixels is not None}
    assert given.keys() - refused <= valid
    assert not refused & valid


def _pipe(place: Path) -> None:
    os.mkfifo(place)


def _socket(place: Path) -> None:
    here = Path.cwd()
    os.chdir(place.parent)  # the path of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(place.name)
    finally:
        os.chdir(here)


def _nowhere(place: Path) -> None:
    place.symlink_to("nowhere")


def _round(place: Path) -> None:
    place.symlink_to(place.name)


def _device(place: Path) -> None:
    place.symlink_to("/dev/zero")


SPECIAL: dict[str, Callable[[Path], None]] = {
    "a pipe.png": _pipe,
    "a socket.png": _socket,
    "a link to nothing.png": _nowhere,
    "a link to itself.png": _round,
    "a link to a device.png": _device,
}


@pytest.mark.parametrize("name", SPECIAL)
def test_special_files_are_refused_by_the_loader_and_by_a_walk(name: str, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    SPECIAL[name](tmp_path / "real" / name)
    with pytest.raises(DataError, match=name):
        decode(tmp_path / "real" / name)
    with pytest.raises(DataError, match=name):
        read_folder(tmp_path)


@pytest.mark.parametrize("name", ["-rf.png", "a\nb.png", "\x1b[31mred\x07.png", "é" * 125 + ".png"])
def test_odd_names_are_read_and_told_on_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(save(RGB, "PNG"))
    assert np.array_equal(decode(tmp_path / name), RGB)
    (tmp_path / name).write_bytes(b"words")
    with pytest.raises(DataError) as caught:
        decode(tmp_path / name)
    assert len(caught.value.lines) == 2
    assert str(caught.value).replace("\n", "").isprintable()
