"""Tests of parquet shards of a data set hub."""

import json
import sys
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avatar_bench.errors import ConfigError, DataError
from avatar_bench.sources.reader import SourceJob
from avatar_bench.sources.readers.huggingface import HuggingFace

PNG = b"\x89PNG\r\n\x1a\n"


def shard(path, images, labels=None, names=None, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"image": images, **({"label": labels} if labels is not None else {}), **columns})
    if names:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=2)


def read(tmp_path, done=(), **options):
    job = SourceJob("hub", {"label": options.pop("label", "")}, tmp_path / "place", done)
    return list(HuggingFace(**{"label_column": "label", **options}).read(job)), job.quarantine


def test_shards_are_read_by_name_with_the_classes_of_their_metadata(tmp_path):
    shard(tmp_path / "data/train-1.parquet", [{"bytes": PNG, "path": None}], [1], ["real", "fake"])
    images = [{"bytes": b"a", "path": "x/a.JPG"}, {"bytes": PNG + b"b", "path": None}]
    shard(tmp_path / "data/train-0.parquet", images, [0, 1], ["real", "fake"], person=["anna", None])
    shard(tmp_path / "data/test-0.parquet", images, [0, 1], ["real", "fake"])
    samples, quarantine = read(tmp_path, root=str(tmp_path), pattern="data/train-*.parquet")
    assert [(sample.name, sample.label, sample.content) for sample in samples] == [
        ("data/train-0/000000.jpg", "real", b"a"),
        ("data/train-0/000001.png", "fake", PNG + b"b"),
        ("data/train-1/000000.png", "fake", PNG),
    ]
    assert quarantine == []


def test_images_may_be_bytes_or_paths_beside_the_shard_and_shards_of_one_name_keep_apart(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    shard(tmp_path / "bytes.parquet", [PNG], ["real"])
    shard(tmp_path / "paths.parquet", ["a.png", "../a.png", None], ["real"] * 3)
    samples, quarantine = read(tmp_path, files=[str(tmp_path / "bytes.parquet"), str(tmp_path / "paths.parquet")])
    expected = [("bytes/000000.png", PNG), ("paths/000000.png", PNG)]
    assert [(sample.name, sample.content) for sample in samples] == expected
    assert quarantine == [("paths/000001", "../a.png is not a file beside the shard"), ("paths/000002", "has no image")]
    for folder in ("a", "b"):
        shard(tmp_path / folder / "0.parquet", [PNG], ["real"])
    samples, _ = read(tmp_path, files=[str(tmp_path / folder / "0.parquet") for folder in ("a", "b")])
    assert [sample.name.split("/")[-3:] for sample in samples] == [["a", "0", "000000.png"], ["b", "0", "000000.png"]]


def test_labels_map_numbers_or_names_and_minus_one_is_no_class_unless_it_is_named(tmp_path):
    for labels in ({0: "real", 1: "generated"}, {"photo": "real", "ai": "generated"}):
        shard(tmp_path / "a.parquet", [PNG] * 3, [0, 1, 2], ["photo", "ai", "sketch"])
        samples, quarantine = read(tmp_path, root=str(tmp_path), labels=labels)
        assert [sample.label for sample in samples] == ["real", "generated"]
        assert quarantine == [("a/000002", "label sketch is missing from labels")]
    shard(tmp_path / "a.parquet", [PNG] * 2, [0, -1], ["photo", "ai"])
    samples, quarantine = read(tmp_path, root=str(tmp_path))
    assert [sample.label for sample in samples] == ["photo"]
    assert quarantine == [("a/000001", "label -1 is missing from labels")]
    samples, _ = read(tmp_path, root=str(tmp_path), labels={"0": "real", "-1": "none"})
    assert [sample.label for sample in samples] == ["real", "none"]


def test_the_count_holds_for_each_class_and_over_an_interruption(tmp_path):
    shard(tmp_path / "a.parquet", [PNG] * 200, ["real"] * 150 + ["drawing"] * 50)
    samples, _ = read(tmp_path, root=str(tmp_path), count=2)
    assert [sample.name[2:8] for sample in samples] == ["000000", "000001", "000150", "000151"]
    again, _ = read(tmp_path, {samples[0].name}, root=str(tmp_path), count=2)
    assert [sample.name for sample in again] == [sample.name for sample in samples[1:]]


def test_columns_give_group_and_generator_and_the_state_changes_with_the_shards(tmp_path):
    shard(tmp_path / "a.parquet", [PNG] * 2, person=["anna", None], model=["SDXL", "FLUX"])
    columns = {"label_column": None, "group_column": "person", "generator_column": "model"}
    samples, _ = read(tmp_path, root=str(tmp_path), label="generated", **columns)
    expected = [("generated", "anna", "SDXL"), ("generated", "", "FLUX")]
    assert [(sample.label, sample.group, sample.generator) for sample in samples] == expected
    shard(tmp_path / "a.parquet", [PNG], ["real"])
    before = HuggingFace(root=str(tmp_path)).hash_state()
    shard(tmp_path / "b.parquet", [PNG], ["real"])
    assert HuggingFace(root=str(tmp_path)).hash_state() != before
    assert HuggingFace(repo="a/b", revision="c").hash_state() == ""


def test_missing_columns_broken_shards_no_class_and_no_revision_are_refused(tmp_path):
    shard(tmp_path / "a.parquet", [PNG], [0])
    with pytest.raises(DataError, match=r"no column photo.*\n.*It has: image, label"):
        read(tmp_path, root=str(tmp_path), image_column="photo")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path, root=str(tmp_path))
    with pytest.raises(DataError, match="no file matches"):
        read(tmp_path, root=str(tmp_path), pattern="*.csv")
    for options, label, message in (
        ({"repo": "a/b"}, "real", r"needs source\.hub\.revision"),
        ({"root": "x"}, "", "has no class"),
    ):
        with pytest.raises(ConfigError, match=message):
            HuggingFace(**options).check("hub", {"label": label})


def test_a_repository_is_downloaded_at_its_revision_or_offline_another_way_is_named(tmp_path, monkeypatch):
    options = {}

    def snapshot(repo, local_dir, **more):
        options.update(more, repo=repo)
        if repo == "no/route":
            raise ConnectionError("no route")
        shard(local_dir / "data" / "a.parquet", [PNG], ["real"])

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot))
    samples, _ = read(tmp_path, repo="ann/faces", revision="abc")
    assert [sample.name for sample in samples] == ["data/a/000000.png"]
    assert (options["repo"], options["revision"], options["repo_type"]) == ("ann/faces", "abc", "dataset")
    with pytest.raises(DataError) as error:
        read(tmp_path, repo="no/route", revision="abc")
    assert len(error.value.lines) == 3
    assert "no route" in error.value.lines[0]
    assert "source.hub.root=DIR" in error.value.lines[2]
