"""Run records, complete and damaged, and the choice of the run that a command works on."""

import json
import os
import socket
from pathlib import Path

import pytest

from avatar_bench.cli.app import main
from avatar_bench.config import entries
from avatar_bench.errors import CheckpointError, ConfigError
from avatar_bench.files import document
from avatar_bench.runs.ensembles import open_run
from avatar_bench.runs.record import (
    SCHEMA,
    RunRecord,
    find_runs,
    format_table,
    is_run_address,
    locate_run,
    read_record,
    read_records,
)
from avatar_bench.runs.run import Run
from tests.builders.run_files import write_file


def write(folder, text):
    write_file(folder / "run.json", text)


def test_runs_are_found_at_a_folder_and_up_to_two_levels_below_but_no_pretraining(tmp_path):
    for folder in ("a", "b/c", "d/e/f"):
        write(tmp_path / folder, "{}")
    assert [record.folder.name for record in read_records(tmp_path)] == ["a", "c"]
    assert len(read_records(tmp_path / "a")) == 1
    assert find_runs(tmp_path / "a") == [tmp_path / "a"]
    write(tmp_path / "a", json.dumps({"command": "pretrain", "started": "2026-01-02"}))
    assert find_runs(tmp_path / "a") == []


def test_records_are_found_two_levels_below_and_give_their_numbers_and_names(tmp_path):
    finished = {"status": "finished", "metrics": {"val/macro_f1": 0.91239}, "split": {"counts": {"val": 9}}}
    write(tmp_path / "a", json.dumps(finished | {"seconds": 61.7}))
    write(tmp_path / "b", json.dumps({"status": "running", "metrics": None}))
    write(tmp_path / "c", '{"status": "run')
    printed = [(run.status, *run.numbers) for run in read_records(tmp_path)]
    assert printed == [("finished", "0.9124", "9", "62"), ("running", *"---"), ("unreadable", *"---")]
    assert format_table([("a", "bb"), ("ccc", "d")]) == "a    bb\nccc  d"
    write(tmp_path / "a", json.dumps({"model": "resnet18"}))
    write_file(tmp_path / "a" / "config.yaml", "model: {backbone: other}\nmode: {name: full}\n")
    record = read_records(tmp_path)[0]
    choices = [record.choice(*key) for key in (("model", "backbone"), ("mode", "name"), ("logger", "name"))]
    assert choices == ["resnet18", "full", "-"]


def test_a_record_that_no_run_of_ours_writes_is_refused(tmp_path):
    texts = ("[" * 10**5, '{"a":' * 10**5, '{"seconds": NaN}', '{"data": []}', '{"metrics": "x"}', '{"status": 1}')
    for text in (*texts, "\xff", "[]"):
        (tmp_path / "run.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(CheckpointError) as caught:
            read_record(tmp_path)
        assert len(caught.value.lines) <= 3
        assert [run.numbers for run in read_records(tmp_path)] == [("-", "-", "-")]


def test_a_record_is_written_whole_with_its_schema_and_one_of_a_newer_schema_is_refused(tmp_path, monkeypatch):
    record = RunRecord(status="running", name="имя", metrics={"val/loss": 0.5}, seed=0, stages=[])
    record.write(tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        RunRecord(metrics={"val/loss": float("nan")}).write(tmp_path)
    assert read_record(tmp_path) == record
    unknown = dict.fromkeys(("git", "experiment", "sweep", "error"))
    stated = {"status": "running", "name": "имя", "metrics": {"val/loss": 0.5}, "seed": 0, "stages": []}
    assert json.loads((tmp_path / "run.json").read_text(encoding="utf-8")) == {"schema": SCHEMA, **stated, **unknown}
    write(tmp_path / "run", '{"status": "interrupted", "seed": 3, "metrics": null, "dropped": 1, "train_seconds": 2}')
    record = read_record(tmp_path / "run")
    assert (record.schema, record.status, record.seed, record.metrics) == (None, "interrupted", 3, {})
    with record.add_duration("train_seconds"):
        pass
    record.write(tmp_path / "run")
    record = read_record(tmp_path / "run")
    assert (record.schema, record.train_seconds) == (SCHEMA, 2)
    write(tmp_path, json.dumps({"status": "finished", "schema": SCHEMA + 1}))
    with pytest.raises(CheckpointError, match="newer version"):
        read_record(tmp_path)
    monkeypatch.setattr(document, "MAX_JSON_BYTES", 10)
    with pytest.raises(CheckpointError, match="larger than 10 bytes"):
        read_record(tmp_path)


def test_addresses_and_things_that_are_no_files_are_refused_at_once(tmp_path, capsys, small, monkeypatch):
    os.mkfifo(tmp_path / "pipe.ckpt")
    (tmp_path / "loop.ckpt").symlink_to(tmp_path / "loop.ckpt")
    (tmp_path / "zero.ckpt").symlink_to("/dev/zero")
    (tmp_path / "folder.ckpt").mkdir()
    (tmp_path / "empty.ckpt").touch()
    (tmp_path / "image.ckpt").write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(range(256)))
    write(tmp_path / "run", "{}")
    (tmp_path / "run" / "checkpoints").mkdir()
    (tmp_path / "run" / "checkpoints" / "best.ckpt").symlink_to("/dev/zero")
    for name in ("pipe.ckpt", "loop.ckpt", "zero.ckpt", "folder.ckpt", "empty.ckpt", "image.ckpt", "run"):
        with pytest.raises(CheckpointError) as refused:
            Run.open(tmp_path / name).card  # noqa: B018
        assert 1 <= len(refused.value.lines) <= 3
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        host = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", host)
        for address in (f"{host}/x.ckpt", "https://x.test/x.ckpt", "s3://x/x.ckpt", "file:///x.ckpt", "hf-hub:x/y"):
            with pytest.raises(CheckpointError, match="Download it first"):
                open_run(locate_run(address))
        for command in (
            ["predict", f"ckpt={host}/x.ckpt", "input=.", "output=o.csv"],
            ["evaluate", f"ckpt=[{host}/x.ckpt,{host}/y.ckpt]", "block=significance"],
            ["export", f"ckpt={host}/x.ckpt", "out=o.onnx"],
            ["train", *small, "out=run", f"init_from={host}/x.ckpt"],
            ["train", f"resume={host}/x"],
            ["train", *(word for word in small if "weights" not in word), "out=run", f"model.weights={host}/x.pth"],
        ):
            assert main(command) == 4, command
            err = capsys.readouterr().err
            assert "Download it first" in err, (command, err)
            assert len(err.splitlines()) <= 3
        with pytest.raises(TimeoutError):
            server.accept()


def test_an_entry_opens_the_addresses_that_begin_with_its_name_and_others_are_paths(tmp_path, monkeypatch):
    code = "def fetch_run(address, option):\n    return {'ckpt': '/a', 'runs': '/b'}[option] + address[4:]\n"
    write_file(tmp_path / "run_address" / "lab.py", code)
    with entries.use_folders([tmp_path]):
        assert (locate_run("lab:/x"), locate_run("lab:/x", "runs")) == (Path("/a/x"), Path("/b/x"))
        with pytest.raises(ConfigError, match=r"run_address lab: .*lab.py failed: KeyError: 'to'"):
            locate_run("lab:/x", "to")
        for path in ("runs/one", "C:/runs/one", "a: b", ":", "s3://bucket/run"):
            assert not is_run_address(path)
            assert locate_run(path) == Path(path)
    monkeypatch.setattr(entries, "find_plugins", dict)  # the plug-in is missing
    monkeypatch.syspath_prepend(tmp_path)  # for another path, entries are found anew
    assert is_run_address("hf:someone/avatars")
    with pytest.raises(ConfigError, match=r"ckpt=hf:someone/avatars: .* plug-in hub"):
        locate_run("hf:someone/avatars")
