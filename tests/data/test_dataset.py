"""Datasets read from class folders and manifests, and what is wrong with them told in time."""

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from avatar_bench.data import dataset as datasets
from avatar_bench.data.dataset import DATASET_COLUMNS, Dataset, read_folder, read_manifest, read_split, write_split
from avatar_bench.errors import DataError


@pytest.fixture
def root(tmp_path):
    hidden = ["a/.5.png", ".cache/a.png", "a/.thumbnails/b.png"]
    for number, name in enumerate(["b/x/1.png", "b/x/y/2.JPG", "b/3.webp", "a/4.png", "a/note.txt", *hidden]):
        file = tmp_path / "data" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".txt":
            file.write_text("no image")
        else:
            Image.new("RGB", (8, 8), (number * 40, 0, 0)).save(file)
    return tmp_path / "data"


def test_class_folders_give_labels_hashes_groups_and_sources_and_folders_of_sides_the_split(root):
    dataset = read_folder(root)
    assert dataset.name == "data"
    assert dataset.classes == ("a", "b")
    assert list(dataset.frame.columns) == list(DATASET_COLUMNS)
    assert dataset.frame["path"].tolist() == ["a/4.png", "b/3.webp", "b/x/1.png", "b/x/y/2.JPG"]
    columns = [dataset.frame[name].tolist() for name in ("label", "source", "split")]
    assert columns == [["a", "b", "b", "b"], ["", "", "x", "x"], [""] * 4]
    shutil.copy(root / "a" / "4.png", root / "b" / "copy.png")
    frame = read_folder(root).frame.set_index("path")
    assert frame.loc["a/4.png", "sha256"] == hashlib.sha256((root / "a" / "4.png").read_bytes()).hexdigest()
    assert (frame.loc["a/4.png", "group"], frame["group"].nunique()) == (frame.loc["b/copy.png", "group"], 4)
    for split in ("train", "test"):
        shutil.copytree(root / "b", root.parent / "fixed" / split / "b")
    frame = read_folder(root.parent / "fixed").frame
    assert set(zip(frame["split"], frame["label"], strict=True)) == {("train", "b"), ("test", "b")}
    assert "train/b/x/1.png" in set(frame["path"])


def test_a_manifest_gives_what_it_states_and_believes_whole_hashes_alone(root):
    lines = ["path,label,source,group,more", "b/x/1.png,b,studio,g1,?", "b/3.webp,b,,,", "a/4.png,a,studio,g1,"]
    (root / "some.csv").write_text("\ufeff" + "\n".join(lines) + "\n", encoding="utf-8")
    dataset = read_manifest(root / "some.csv")
    assert (dataset.name, dataset.root) == ("some", root)
    assert dataset.frame["source"].tolist() == ["studio", "", "studio"]
    assert dataset.frame["group"].tolist()[::2] == ["g1", "g1"]
    assert dataset.frame["group"].iat[1] == "sha256:" + dataset.frame["sha256"].iat[1][:16]
    assert datasets.read_dataset(root / "some.csv", "other").name == "other"
    (root / "hashed.csv").write_text(f"path,label,sha256\na/4.png,a,{'f' * 64}\nb/3.webp,b,abc\n")
    hashes = read_manifest(root / "hashed.csv").frame["sha256"].tolist()
    assert hashes[0] == "f" * 64
    assert hashes[1] == hashlib.sha256((root / "b" / "3.webp").read_bytes()).hexdigest()


def test_a_split_and_names_with_line_ends_commas_and_quotes_survive_its_file(root):
    dataset = read_folder(root)
    dataset.frame["split"], dataset.frame["phash"] = "train", "00ff"
    dataset.frame["stated_group"] = dataset.frame["group"]
    write_split(dataset, root / "split.csv")
    again = read_split(root / "split.csv", root)
    assert again.frame[dataset.frame.columns].equals(dataset.frame)
    old = pd.read_csv(root / "split.csv", dtype=str).drop(columns=["phash", "stated_group"])
    old.to_csv(root / "split.csv", index=False)
    assert set(read_split(root / "split.csv", root).frame["phash"]) == {""}
    for name in ("new\nline.png", 'quote".png', "a,b.png", " blank .png", "=1+1.png", "-rf.png", "\ttab.png"):
        shutil.copy(root / "a" / "4.png", root / "a" / name)
    dataset = read_folder(root)
    write_split(dataset, root / "split.csv")
    again = read_split(root / "split.csv", root)
    assert again.frame["path"].tolist() == dataset.frame["path"].tolist()
    assert all(again.image(row).shape == (8, 8, 3) for row in range(len(again)))


@pytest.mark.filterwarnings("ignore::pandas.errors.ParserWarning")
def test_a_manifest_that_cannot_be_used_is_told_why(root):
    for content, message in (
        ("", "cannot be read as CSV in UTF-8: No columns to parse from file.\nSave it as CSV in UTF-8"),
        ("file,class\na,b\n", "no column path and label"),
        ("path,label\n", "no rows.\nExpected a row for each image"),
        ('path,label\n\na/4.png,"a\nb"\n  \nnowhere.png,a\n', "line 6: nowhere.png does not exist"),
        ("path,label,split\na/4.png,a,training\n", "unknown split 'training'"),
        (
            "path,label,date\na/4.png,a,2024\n\na/4.png,a,06/2024\n",
            "line 4, a/4.png: unknown date '06/2024'.\nExpected YYYY",
        ),
        ("path,label,released\na/4.png,a,2023-02-30\n", "unknown released '2023-02-30'"),
        ('path,label\n"a/4.png,a\n', "cannot be read as CSV"),
        ("path,label\nx,4.png,a\n", "line 2: 3 cells, but the header has 2.\nRemove the comma"),
        ("path,label,label\na/4.png,a,b\n", "the column label twice"),
        ("path,label\na\x1b[2J.png,a\n", "line 2: a\\x1b[2J.png does not exist"),
        ("path,label\n/dev/zero,a\n", "line 2: /dev/zero does not exist"),
        ("path,label\na\0.png,a\n", "null bytes.\nSave it as CSV in UTF-8"),
        ("path,label" + ",x" * 2**16, "its first line is longer than 64 KiB"),
        ("path,label\na/4.png,фото\n".encode("cp1251"), "UTF-8"),
    ):
        (root / "bad.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(DataError) as caught:
            read_manifest(root / "bad.csv")
        assert message in str(caught.value)
        assert len(caught.value.lines) <= 3
    with (root / "large.csv").open("wb") as stream:
        stream.write(b"path,label\na/4.png,a\n")
        stream.truncate(2**31)  # takes no room
    with pytest.raises(DataError, match="larger than 512 MiB"):
        read_manifest(root / "large.csv")
    os.mkfifo(root / "pipe.csv")
    for file in (root / "pipe.csv", Path("/dev/zero"), root / ("a" * 300 + ".csv"), root / "nul\0.csv"):
        with pytest.raises(DataError, match="does not exist"):
            read_manifest(file)


def test_a_link_to_a_folder_may_be_a_class_and_nothing_below_one_nor_a_name_that_no_table_keeps(root, tmp_path):
    for name, why in ((b"\xff.png", "not UTF-8"), (b"a\rb.png", "carriage return")):
        file = Path(shutil.copy(root / "a" / "4.png", root / "a" / os.fsdecode(name)))
        with pytest.raises(DataError, match=why) as caught:
            read_folder(root)
        file.unlink()
        assert str(caught.value).encode().decode().replace("\n", "").isprintable()
    shutil.copytree(root / "b", tmp_path / "elsewhere")
    (root / "c").symlink_to(tmp_path / "elsewhere")
    assert read_folder(root).classes == ("a", "b", "c")
    (root / "b" / "x" / "round").symlink_to(root)
    with pytest.raises(DataError, match="b/x/round: links to folders are not followed"):
        read_folder(root)


def test_the_fingerprint_and_the_digest_are_of_what_they_say_alone(root, tmp_path):
    dataset = read_folder(root)
    shutil.copytree(root, tmp_path / "moved")
    assert read_folder(tmp_path / "moved").fingerprint == dataset.fingerprint
    assert dataset.take(np.arange(len(dataset))[::-1]).fingerprint == dataset.fingerprint
    assert dataset.take(np.arange(3)).fingerprint != dataset.fingerprint
    rows = sorted(dataset.frame[["sha256", "label", "group"]].itertuples(index=False, name=None))
    assert dataset.fingerprint == hashlib.sha256(repr(rows).encode()).hexdigest()[:16]
    for column in ("label", "group"):
        other = dataset.take(np.arange(len(dataset)))
        other.frame.loc[0, column] = "z"
        assert other.fingerprint != dataset.fingerprint
    Image.new("RGB", (8, 8), "blue").save(root / "a" / "4.png")
    assert read_folder(root).fingerprint != dataset.fingerprint
    dataset = read_folder(root)
    earlier = dataset.frame.drop(columns=["date", "released"])
    assert dataset.digest == Dataset("", root, earlier).digest
    assert dataset.digest != Dataset("", root, dataset.frame.assign(date="2024")).digest
