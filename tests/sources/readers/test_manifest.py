"""Tests of images that a CSV names."""

import os

import pytest

from avatar_bench.errors import DataError
from avatar_bench.sources.reader import SourceJob
from avatar_bench.sources.readers.manifest import Manifest


def read(tmp_path, text, done=(), label=""):
    (tmp_path / "m.csv").write_text(text)
    job = SourceJob("own", {"label": label}, tmp_path, done)
    return list(Manifest(file=str(tmp_path / "m.csv")).read(job)), job.quarantine


def test_rows_give_images_in_their_order_with_all_they_say(tmp_path):
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / name).write_text(name)
    text = "path,label,source,group,generator,licence,author,url,split,mood\n"
    text += "b.jpg,generated,web,anna,SDXL,CC0,Ann,https://x.org,val,sad\n"
    text += f"{tmp_path}/a.jpg, real ,,,,,,,,\nc.jpg,real,,,,,,,,\n"
    images, quarantine = read(tmp_path, text, done={"c.jpg"})
    assert quarantine == []
    expected = [("b.jpg", b"b.jpg", "generated"), (f"{tmp_path}/a.jpg", b"a.jpg", "real")]
    assert [(image.name, image.content.read_bytes(), image.label) for image in images] == expected
    first = images[0]
    assert (first.source, first.shared_group, first.generator, first.licence) == ("web", "anna", "SDXL", "CC0")
    assert (first.author, first.url, first.split) == ("Ann", "https://x.org", "val")


def test_rows_that_cannot_be_used_are_named_and_a_row_needs_a_class_unless_the_source_has_one(tmp_path):
    (tmp_path / "a.jpg").write_text("")
    _, quarantine = read(tmp_path, "path,label\na.jpg,real\na.jpg,drawing\nb.jpg,real\n,real\n")
    assert [reason for _, reason in quarantine] == ["listed twice", "does not exist", "does not exist"]
    assert quarantine[1][0] == "m.csv, line 4: b.jpg"
    (tmp_path / "a.jpg").write_text("")
    assert read(tmp_path, "path\na.jpg\n")[1] == [("m.csv, line 2: a.jpg", "has no label")]
    assert len(read(tmp_path, "path\na.jpg\n", label="real")[0]) == 1
    with pytest.raises(DataError, match="line 3: unknown date '2020/3'"):
        read(tmp_path, "path,label,date\na.jpg,real,2020\na.jpg,real,2020/3\n")


def test_the_state_changes_with_the_images_and_a_missing_file_is_an_error(tmp_path):
    (tmp_path / "a.jpg").write_text("")
    read(tmp_path, "path,label\na.jpg,real\n")
    source = Manifest(file=str(tmp_path / "m.csv"))
    before = source.hash_state()
    assert before == source.hash_state()
    os.utime(tmp_path / "a.jpg", ns=(1, 1))
    assert source.hash_state() != before
    source = Manifest(file=str(tmp_path / "none.csv"))
    assert source.hash_state() == ""
    with pytest.raises(DataError, match=r"none\.csv cannot be read: No such file"):
        list(source.read(SourceJob("own", {"label": ""}, tmp_path)))
