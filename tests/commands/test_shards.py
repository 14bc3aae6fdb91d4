"""Training from shards: the same run as from files, local or remote, interrupted or not."""

import json
import shutil
import tarfile
from pathlib import Path

import pandas as pd
import pytest
import torch

from avatar_bench.cli.app import main

SHARDS = ("data=shards", "data.manifest=null", "data.split.folds=10", "allow=[shortcut]")


def record(run):
    return json.loads((run / "run.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def prepared(images, tmp_path_factory):
    """A prepared data set with some eight shards; never write into it."""
    out = tmp_path_factory.mktemp("prepared") / "set"
    words = ["source=manifest", f"source.manifest.file={images / 'all.csv'}", f"out={out}", "allow=[shortcut]"]
    quick = [
        f"block.data_audit.{option}" for option in ("resamples=100", "folds=2", "equalised=false", "label_errors=false")
    ]
    assert main(["prepare", *words, *quick, "out_format=shards", "shard_mb=0.1"]) == 0
    return out


@pytest.fixture(scope="module")
def from_files(prepared, train, tmp_path_factory):
    words = (f"data.manifest={prepared / 'manifest.csv'}", "data.split.folds=10", "allow=[shortcut]")
    return train(tmp_path_factory.mktemp("files") / "run", "epochs=2", *words)


def test_shards_hold_the_prepared_images_with_their_splits_and_groups(prepared):
    files, shards = (pd.read_csv(folder / "manifest.csv") for folder in (prepared, prepared / "shards"))
    assert files.drop(columns=["path", "group"]).equals(shards[files.columns].drop(columns=["path", "group"]))
    names = {file.name for file in (prepared / "shards").glob("*.tar")}
    assert len(names) > 5
    for number, (path, label) in enumerate(zip(shards["path"], shards["label"], strict=True)):
        shard, _, name = path.partition("/")
        assert name == files["path"][number]
        with tarfile.open(prepared / "shards" / shard) as archive:
            assert archive.extractfile(name).read() == (prepared / name).read_bytes()
            text = archive.extractfile(f"{name.rpartition('.')[0]}.txt")
            assert text is not None
            assert text.read().decode() == label


def test_files_and_shards_give_the_same_run(prepared, from_files, train, tmp_path):
    run = train(tmp_path / "run", *SHARDS, f"data.shards={prepared / 'shards'}", "epochs=2")
    assert (run / "metrics.csv").read_bytes() == (from_files / "metrics.csv").read_bytes()
    assert record(run)["weights_sha256"] == record(from_files)["weights_sha256"]
    assert record(run)["temperature"] == record(from_files)["temperature"]
    for folder in (run, from_files):
        assert main(["evaluate", f"ckpt={folder}", "block=blind_test"]) == 0
    found, expected = (pd.read_csv(one / "evaluation/test/blind_test/predictions.csv") for one in (run, from_files))
    pd.testing.assert_frame_equal(found.drop(columns="path"), expected.drop(columns="path"))


@pytest.fixture(scope="module")
def server(prepared):
    """The address of the shards on an S3 server on this machine."""
    pytest.importorskip("moto.server", reason="needs moto[server]")
    from moto.server import ThreadedMotoServer
    from pyarrow import fs

    machine = ThreadedMotoServer(port=0)
    machine.start()
    host, port = machine.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        system = fs.FileSystem.from_uri("s3://shards/?allow_bucket_creation=true")[0]
        system.create_dir("shards")
        fs.copy_files(str(prepared / "shards"), "shards/set", destination_filesystem=system)
        yield "s3://shards/set"
    machine.stop()


def test_remote_shards_are_fetched_as_they_are_read_and_kept_within_the_limit(
    server, from_files, train, tmp_path, monkeypatch
):
    monkeypatch.setenv("AVATAR_BENCH_CACHE", str(tmp_path / "cache"))
    run = train(tmp_path / "run", *SHARDS, f"data.shards={server}", "data.shards_gb=3e-4", "epochs=2")
    assert record(run)["weights_sha256"] == record(from_files)["weights_sha256"]
    kept = sum(file.stat().st_size for file in (tmp_path / "cache" / "shards").rglob("*.tar"))
    assert 0 < kept <= 3e5


def test_a_remote_shard_that_has_changed_is_refused(server, train, tmp_path, monkeypatch, capsys):
    from pyarrow import fs

    monkeypatch.setenv("AVATAR_BENCH_CACHE", str(tmp_path / "cache"))

    system, place = fs.FileSystem.from_uri(f"{server}/00000.tar")
    with system.open_output_stream(place) as file:
        file.write(b"other")
    train(tmp_path / "run", *SHARDS, f"data.shards={server}", code=3)
    assert "00000.tar has changed" in capsys.readouterr().err


def test_shards_without_what_the_guards_need_are_refused(prepared, train, tmp_path, capsys):
    copy = Path(shutil.copytree(prepared / "shards", tmp_path / "copy"))
    pd.read_csv(copy / "manifest.csv").drop(columns="turned_phashes").to_csv(copy / "manifest.csv", index=False)
    train(tmp_path / "run", *SHARDS, f"data.shards={copy}", code=3)
    assert "no fingerprints" in capsys.readouterr().err
    (copy / "manifest.csv").unlink()
    train(tmp_path / "run", *SHARDS, f"data.shards={copy}", code=3)
    assert "there is no manifest.csv" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_killed_within_a_shard_goes_on_to_what_it_would_have_been(prepared, train, fork, small, tmp_path):
    words = (*SHARDS, f"data.shards={prepared / 'shards'}", "data.shuffle_shards=2", "data.batch_size=4", "epochs=2")
    whole = train(tmp_path / "whole", *words)
    parts = {word.partition("=")[0] for word in words}
    kept = [word for word in small if word.partition("=")[0] not in parts]
    run = tmp_path / "run"
    last = run / "checkpoints" / "last.ckpt"
    child = fork("train", *kept, *words, f"out={run}", "callbacks.save_minutes=0")
    child.until(lambda: last.is_file() and torch.load(last, weights_only=True)["global_step"] > 5)
    child.kill()
    assert torch.load(last, weights_only=True)["progress"]["batches"]
    assert main(["train", f"resume={run}"]) == 0
    assert record(run)["weights_sha256"] == record(whole)["weights_sha256"]
    assert (run / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
