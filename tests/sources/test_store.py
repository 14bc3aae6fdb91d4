"""Tests of the store: what is kept, under which name, and what a journal remembers."""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from avatar_bench.data.decoding import decode
from avatar_bench.data.fingerprints import fingerprint_image
from avatar_bench.sources.reader import SourceImage
from avatar_bench.sources.store import SourceJournal, delete_images, list_unwanted, store_image

MAKING: Any = ("studio", {"label": "real"}, None)


def drawn(seed: int = 0, kind: str = "PNG", size: tuple[int, int] = (40, 30)) -> bytes:
    small = np.random.default_rng(seed).integers(0, 255, (5, 5, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(buffer, kind)
    return buffer.getvalue()


def test_a_file_is_kept_as_it_is_under_its_hash(tmp_path: Path) -> None:
    file = tmp_path / "me, myself.png"
    file.write_bytes(drawn())
    row = store_image(SourceImage("me, myself.png", file), *MAKING, tmp_path / "set")
    digest = hashlib.sha256(drawn()).hexdigest()
    assert row["path"] == f"images/real/studio/{digest[:20]}.png"
    stored = tmp_path / "set" / row["path"]
    assert stored.read_bytes() == drawn()
    assert os.path.samefile(stored, file)  # a hard link costs no room
    assert (row["sha256"], row["origin_sha256"]) == (digest, digest)
    assert (row["width"], row["height"], row["format"], row["jpeg_quality"]) == (40, 30, "PNG", "")
    assert tuple(row["phashes"]) == fingerprint_image(decode(file)).phashes


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "empty"),
        (b"hello", "not a known"),
        (b"<svg/>", "SVG is not supported"),
        (drawn()[:60], "cannot be decoded"),
    ],
)
def test_what_is_no_image_is_a_row_with_a_reason(data: bytes, told: str, tmp_path: Path) -> None:
    row = store_image(SourceImage("x.png", data), *MAKING, tmp_path)
    assert set(row) == {"name", "reason"}
    assert told in row["reason"]
    assert not (tmp_path / "images").exists()


def test_a_box_is_cut_and_kept_without_loss(tmp_path: Path) -> None:
    row = store_image(SourceImage("x.png", drawn(), box=(0.5, 0.0, 0.25)), *MAKING, tmp_path)
    whole = np.asarray(Image.open(io.BytesIO(drawn())))
    assert np.array_equal(decode(tmp_path / row["path"]), whole[:10, 20:30])


def test_a_label_or_source_of_odd_letters_makes_a_plain_folder(tmp_path: Path) -> None:
    row = store_image(SourceImage("x.png", drawn(), label="../real, or=not", source=".hidden лица"), *MAKING, tmp_path)
    assert row["path"].startswith("images/_real_or_not/hidden_лица/")
    assert (row["label"], row["source"]) == ("../real, or=not", ".hidden лица")


def test_a_journal_goes_on_where_a_process_was_killed(tmp_path: Path) -> None:
    file = tmp_path / "work" / "a.jsonl"
    journal = SourceJournal.open(file, "digest", tmp_path)
    (tmp_path / "p").touch()
    (tmp_path / "q").touch()
    journal.add({"name": "1", "path": "p"})
    with file.open("a") as stream:
        stream.write('{"name": "2", "pa')  # and no more
    again = SourceJournal.open(file, "digest", tmp_path)
    assert (list(again.rows), again.complete) == ([{"name": "1", "path": "p"}], False)
    again.add({"name": "2", "path": "q"})
    again.close([("x.txt", "no image")])
    whole = SourceJournal.open(file, "digest", tmp_path)
    assert whole.complete
    assert [row["name"] for row in whole.rows] == ["1", "2"]
    assert whole.refused == [("x.txt", "no image")]
    assert all(json.loads(line) for line in file.read_text().splitlines())


def test_only_images_that_a_journal_has_named_are_deleted(tmp_path: Path) -> None:
    file = tmp_path / ".work" / "a.jsonl"
    rows = {seed: store_image(SourceImage(f"{seed}.png", drawn(seed)), *MAKING, tmp_path) for seed in (1, 2, 3, 4)}
    foreign = (tmp_path / rows[1]["path"]).with_name("holiday.jpg")
    foreign.touch()
    earlier = SourceJournal.open(file, "one", tmp_path)
    for seed in (1, 2, 3):
        earlier.add(rows[seed])
    for digest in ("two", "three"):  # what a journal has named survives its restarts
        journal = SourceJournal.open(file, digest, tmp_path)
    journal.add(rows[1])
    journal.add(rows[4] | {"name": "2.png"})  # a new version of the second
    unwanted = list_unwanted([file], tmp_path, {row["path"] for row in journal.rows})
    assert unwanted == {rows[2]["path"]: "", rows[3]["path"]: "3.png"}
    delete_images(tmp_path, unwanted)
    assert {path.name for path in (tmp_path / "images").rglob("*.*")} == {
        *(Path(rows[seed]["path"]).name for seed in (1, 4)),
        "holiday.jpg",
    }
    assert list_unwanted([file], tmp_path, {row["path"] for row in journal.rows}) == {}


def test_an_image_that_has_moved_to_another_class_is_not_lost_and_leaves_no_empty_folder(tmp_path: Path) -> None:
    file = tmp_path / ".work" / "a.jsonl"
    before, after = (
        store_image(SourceImage(f"{label}/x.png", drawn(1), label=label), *MAKING, tmp_path) for label in ("cat", "dog")
    )
    SourceJournal.open(file, "one", tmp_path).add(before)
    SourceJournal.open(file, "two", tmp_path).add(after)
    unwanted = list_unwanted([file], tmp_path, {after["path"]})
    assert unwanted == {before["path"]: ""}
    delete_images(tmp_path, unwanted)
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["dog"]
