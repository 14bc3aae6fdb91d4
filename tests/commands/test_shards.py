"""Training from shards: the same run as from files, local or remote, interrupted or not."""

import shutil
import tarfile
from pathlib import Path

import pandas as pd
import pytest
import torch

from avatar_bench.cli.app import main
from avatar_bench.data.dataset import DATE_COLUMNS
from avatar_bench.training.module import Learner
from tests.builders.commands import change_record, merge_words, read_record, write_manifest

SPLIT = ("data.blind=null", "data.split.folds=10", "allow=[shortcut]")
SHARDS = ("data=shards", "data.manifest=null", *SPLIT)


@pytest.fixture(scope="module")
def prepared(images, tmp_path_factory):
    """A prepared data set of dated images with some eight shards; never write into it."""
    out = tmp_path_factory.mktemp("prepared") / "set"
    rows = pd.read_csv(images / "blind.csv")
    rows = rows.assign(date=[f"2022-{row % 12 + 1:02}" for row in rows.index], released="2021")
    manifest = write_manifest(out.with_name("dated.csv"), rows, images)
    quick = ("resamples=100", "folds=2", "equalised=false", "label_errors=false", "marks=false")
    words = ["source=manifest", f"source.manifest.file={manifest}", f"out={out}", "allow=[shortcut]"]
    words += [*(f"block.data_audit.{option}" for option in quick), "out_format=shards", "shard_mb=0.02"]
    assert main(["prepare", *words]) == 0
    return out


@pytest.fixture(scope="module")
def from_files(prepared, train, tmp_path_factory):
    words = (f"data.manifest={prepared / 'manifest.csv'}", "epochs=2", *SPLIT)
    return train(tmp_path_factory.mktemp("files") / "run", *words)


def assert_same_run(run, expected):
    assert (run / "metrics.csv").read_bytes() == (expected / "metrics.csv").read_bytes()
    for name in ("weights_sha256", "temperature"):
        assert read_record(run)[name] == read_record(expected)[name]


def test_shards_hold_the_prepared_images_with_their_splits_and_groups(prepared):
    files, shards = (pd.read_csv(folder / "manifest.csv") for folder in (prepared, prepared / "shards"))
    columns = files.columns.drop(["path", "group"])
    assert files[columns].equals(shards[columns])
    assert len(list((prepared / "shards").glob("*.tar"))) > 5
    for path, expected, label in zip(shards["path"], files["path"], shards["label"], strict=True):
        shard, _, name = path.partition("/")
        assert name == expected
        with tarfile.open(prepared / "shards" / shard) as archive:
            assert archive.extractfile(name).read() == (prepared / name).read_bytes()
            assert archive.extractfile(f"{name.rpartition('.')[0]}.txt").read().decode() == label


def test_files_and_shards_give_the_same_run(prepared, from_files, train, tmp_path):
    run = train(tmp_path / "run", *SHARDS, f"data.shards={prepared / 'shards'}", "epochs=2")
    assert_same_run(run, from_files)
    splits = [pd.read_csv(folder / "split.csv", dtype=str)[["sha256", *DATE_COLUMNS]] for folder in (run, from_files)]
    assert splits[0].equals(splits[1])
    assert splits[0]["date"].nunique() == 12
    tables = []
    for folder in (run, from_files):
        assert main(["evaluate", f"ckpt={folder}", "block=blind_test", "block.blind_test.resamples=100"]) == 0
        table = pd.read_csv(folder / "evaluation/test/blind_test/predictions.csv")
        tables.append(table.drop(columns="path"))
    pd.testing.assert_frame_equal(*tables)


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


@pytest.mark.slow
def test_remote_shards_are_kept_within_the_limit_and_refused_once_changed(
    server, from_files, train, tmp_path, monkeypatch, capsys
):
    from pyarrow import fs

    monkeypatch.setenv("AVATAR_BENCH_CACHE", str(tmp_path / "cache"))
    run = train(tmp_path / "run", *SHARDS, f"data.shards={server}", "data.shards_gb=1e-4", "epochs=2")
    assert_same_run(run, from_files)
    kept = sum(file.stat().st_size for file in (tmp_path / "cache" / "shards").rglob("*.tar"))
    assert 0 < kept <= 1e5
    change_record(run, status="interrupted")
    assert main(["train", f"resume={run}"]) == 0  # the user's own training chose the address
    assert_same_run(run, from_files)
    change_record(run, status="interrupted", signature=None)
    assert main(["train", f"resume={run}"]) == 2
    assert f"data.shards={server}" in capsys.readouterr().err
    monkeypatch.setenv("AVATAR_BENCH_CACHE", str(tmp_path / "other"))
    system, path = fs.FileSystem.from_uri(f"{server}/00000.tar")
    with system.open_output_stream(path) as file:
        file.write(b"other")
    train(tmp_path / "other run", *SHARDS, f"data.shards={server}", code=3)
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
def test_a_run_killed_within_a_shard_continues_to_what_it_would_have_been(prepared, train, fork, slow, small, tmp_path):
    words = (*SHARDS, f"data.shards={prepared / 'shards'}", "data.shuffle_shards=2", "data.batch_size=4", "epochs=2")
    whole, run = train(tmp_path / "whole", *words), tmp_path / "run"
    last = run / "checkpoints" / "last.ckpt"
    disturbed = merge_words(small, *words, f"out={run}", "callbacks.save_minutes=0")
    child = fork("train", *disturbed, before=slow(Learner, "training_step"))
    child.until(lambda: last.is_file() and torch.load(last, weights_only=True)["global_step"] > 5)
    child.kill()
    assert torch.load(last, weights_only=True)["progress"]["batches"]
    assert main(["train", f"resume={run}"]) == 0
    assert_same_run(run, whole)
