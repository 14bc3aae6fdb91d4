"""Tests of the store: what is kept, under which name, and what a journal remembers."""

import hashlib
import io
import json
import os
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from avatar_bench.data.decoding import decode
from avatar_bench.data.fingerprints import fingerprint_image
from avatar_bench.sources import store
from avatar_bench.sources.reader import SourceImage
from avatar_bench.sources.store import SourceJournal, delete_images, list_unwanted, rasterise, store_image
from tests.builders.pixels import encode, make_smooth

MAKING = ("studio", {"label": "real"}, None)


def drawn(seed=0, kind="PNG"):
    return encode(make_smooth(seed, 30, 40), kind)


def test_a_file_is_kept_as_it_is_under_its_hash_as_a_copy_where_there_are_no_links(tmp_path, monkeypatch):
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
    monkeypatch.setattr(os, "link", Mock(side_effect=OSError("no links here")))
    (tmp_path / "a.png").write_bytes(drawn(1))
    row = store_image(SourceImage("a.png", tmp_path / "a.png"), *MAKING, tmp_path / "set")
    assert (tmp_path / "set" / row["path"]).read_bytes() == drawn(1)
    assert not os.path.samefile(tmp_path / "set" / row["path"], tmp_path / "a.png")


def test_the_ending_tells_the_format_odd_letters_make_a_plain_folder_and_equalised_images_are_jpegs(tmp_path):
    row = store_image(SourceImage("photo.png", drawn(kind="JPEG")), *MAKING, tmp_path)
    assert row["path"].endswith(".jpg")
    assert (row["format"], row["jpeg_quality"]) == ("JPEG", 75)  # what Pillow writes unasked
    row = store_image(SourceImage("x.png", drawn(), label="../real, or=not", source=".hidden лица"), *MAKING, tmp_path)
    assert row["path"].startswith("images/_real_or_not/hidden_лица/")
    assert (row["label"], row["source"]) == ("../real, or=not", ".hidden лица")
    making = ("studio", {"label": "real"}, "jpeg")
    rows = [store_image(SourceImage("x", drawn(3, kind)), *making, tmp_path) for kind in ("PNG", "BMP", "TIFF")]
    assert {row["format"] for row in rows} == {"JPEG"}
    assert all(row["width"] == row["height"] for row in rows)
    data, making = encode(Image.new("RGBA", (60, 60))), ("v", {"label": "drawing"}, "jpeg")
    rows = [store_image(SourceImage("x.png", data), *making, tmp_path / name) for name in "ab"]
    assert rows[0] == rows[1]


def test_what_is_no_image_is_a_row_with_a_reason(tmp_path):
    for data, message in (
        (b"", "empty"),
        (b"hello", "not a known"),
        (b"<svg/>", "SVG is not supported"),
        (drawn()[:60], "cannot be decoded"),
    ):
        row = store_image(SourceImage("x.png", data), *MAKING, tmp_path)
        assert set(row) == {"name", "reason"}
        assert message in row["reason"]
    assert "No such file" in store_image(SourceImage("x.png", tmp_path / "x.png"), *MAKING, tmp_path)["reason"]
    assert not (tmp_path / "images").exists()


def test_a_box_is_cut_without_loss_and_moved_to_lie_within_the_image(tmp_path):
    row = store_image(SourceImage("x.png", drawn(), box=(0.5, 0.0, 0.25)), *MAKING, tmp_path)
    whole = np.asarray(Image.open(io.BytesIO(drawn())))
    assert np.array_equal(decode(tmp_path / row["path"]), whole[:10, 20:30])
    for box in ((0.9, 0.9, 0.5), (0, 0, 1), (0, 0, 0)):
        height, width, _ = store.crop_square(np.zeros((100, 200, 3), np.uint8), box).shape
        assert 1 <= width == height <= 100


def test_a_journal_goes_on_where_a_process_was_killed_but_not_for_other_sources_or_without_images(tmp_path):
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
    SourceJournal.open(tmp_path / "a.jsonl", "one", tmp_path).add({"name": "1", "path": "p"})
    for digest in ("two", "one"):
        assert list(SourceJournal.open(tmp_path / "a.jsonl", digest, tmp_path).rows) == []
    SourceJournal.open(tmp_path / "b.jsonl", "one", tmp_path).add({"name": "1", "path": "r"})
    assert list(SourceJournal.open(tmp_path / "b.jsonl", "one", tmp_path).rows) == []


def test_only_images_that_a_journal_has_named_are_deleted(tmp_path):
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
    expected = {*(Path(rows[seed]["path"]).name for seed in (1, 4)), "holiday.jpg"}
    assert {path.name for path in (tmp_path / "images").rglob("*.*")} == expected
    assert list_unwanted([file], tmp_path, {row["path"] for row in journal.rows}) == {}


def test_an_image_that_has_moved_to_another_class_is_not_lost_and_leaves_no_empty_folder(tmp_path):
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


def test_a_drawing_becomes_an_image_of_the_width_asked_for():
    pytest.importorskip("resvg_py")
    svg = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 4 2"><rect width="2" height="2" fill="#f00"/></svg>'
    image = rasterise(svg, 40)
    assert (image.size, image.mode) == ((40, 20), "RGBA")
    assert (image.getpixel((5, 5)), image.getpixel((35, 5))) == ((255, 0, 0, 255), (0, 0, 0, 0))
    assert rasterise(svg).width == store.RASTER_WIDTH
    with pytest.raises(ValueError, match=r"."):
        rasterise("no drawing")
