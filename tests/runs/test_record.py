"""Run records, complete and damaged, and the choice of the run that a command works on."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from avatar_bench.cli.app import main
from avatar_bench.config import entries
from avatar_bench.errors import CheckpointError, ConfigError
from avatar_bench.runs import record as records
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


def write(folder: Path, text: str) -> None:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(text, encoding="utf-8")


def test_runs_are_found_at_a_folder_and_up_to_two_levels_below(tmp_path: Path) -> None:
    for folder in ("a", "b/c", "d/e/f"):
        write(tmp_path / folder, "{}")
    assert [record.folder.name for record in read_records(tmp_path)] == ["a", "c"]
    assert len(read_records(tmp_path / "a")) == 1


def test_a_pretraining_is_no_run(tmp_path: Path) -> None:
    write(tmp_path / "a", json.dumps({"command": "pretrain", "started": "2026-01-02"}))
    write(tmp_path / "b", json.dumps({"started": "2026-01-01"}))
    assert find_runs(tmp_path) == [tmp_path / "b"]


def test_a_record_gives_its_figures_or_a_dash(tmp_path: Path) -> None:
    write(tmp_path / "a", json.dumps({"status": "finished", "metrics": {"val/macro_f1": 0.91239}, "seconds": 61.7}))
    write(tmp_path / "b", json.dumps({"status": "running", "metrics": None}))
    write(tmp_path / "c", '{"status": "run')
    printed = [(record.status, record.macro_f1, record.seconds) for record in read_records(tmp_path)]
    assert printed == [("finished", "0.9124", "62"), ("running", "-", "-"), ("unreadable", "-", "-")]


def test_a_name_comes_from_the_record_else_from_the_config(tmp_path: Path) -> None:
    write(tmp_path / "a", json.dumps({"model": "resnet18"}))
    (tmp_path / "a" / "config.yaml").write_text("model: {backbone: other}\nmode: {name: full}\n", encoding="utf-8")
    (record,) = read_records(tmp_path)
    assert (record.choice("model", "backbone"), record.choice("mode", "name")) == ("resnet18", "full")
    assert record.choice("logger", "name") == "-"


def test_a_table_is_laid_out_in_columns() -> None:
    assert format_table([("a", "bb"), ("ccc", "d")]) == "a    bb\nccc  d"


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"seconds": NaN}',
        '{"data": []}',
        '{"metrics": "x"}',
        '{"status": 1}',
        "\xff",
        "[]",
    ],
    ids=lambda text: text[:20],
)
def test_a_record_that_no_run_of_ours_writes_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError) as caught:
        read_record(tmp_path)
    assert len(caught.value.lines) <= 3
    assert [record.macro_f1 for record in read_records(tmp_path)] == ["-"]


def test_a_record_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    record = RunRecord(status="running", name="имя", metrics={"val/loss": 0.5}, seed=0, stages=[])
    record.write(tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        RunRecord(metrics={"val/loss": float("nan")}).write(tmp_path)
    assert read_record(tmp_path) == record
    unknown = dict.fromkeys(("git", "experiment", "sweep", "error"))
    stated = {"status": "running", "name": "имя", "metrics": {"val/loss": 0.5}, "seed": 0, "stages": []}
    assert json.loads((tmp_path / "run.json").read_text(encoding="utf-8")) == {"schema": SCHEMA, **stated, **unknown}


def test_a_record_without_a_schema_is_read_and_written_with_one(tmp_path: Path) -> None:
    write(tmp_path / "run", '{"status": "interrupted", "seed": 3, "metrics": null, "dropped": 1, "train_seconds": 2}')
    record = read_record(tmp_path / "run")
    assert (record.schema, record.status, record.seed, record.metrics) == (None, "interrupted", 3, {})
    with record.add_duration("train_seconds"):
        pass
    record.write(tmp_path / "run")
    record = read_record(tmp_path / "run")
    assert (record.schema, record.train_seconds) == (SCHEMA, 2)


def test_a_record_of_a_newer_schema_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "run", json.dumps({"status": "finished", "schema": SCHEMA + 1}))
    with pytest.raises(CheckpointError, match="newer version"):
        read_record(tmp_path / "run")


def test_a_record_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_JSON_BYTES", 10)
    (tmp_path / "run.json").write_text('{"name": "long"}')
    with pytest.raises(CheckpointError, match="larger than 10 bytes"):
        read_record(tmp_path)


def test_things_that_are_no_files_are_refused_at_once(tmp_path: Path, capsys: Any) -> None:
    os.mkfifo(tmp_path / "pipe.ckpt")
    (tmp_path / "loop.ckpt").symlink_to(tmp_path / "loop.ckpt")
    (tmp_path / "zero.ckpt").symlink_to("/dev/zero")
    (tmp_path / "folder.ckpt").mkdir()
    (tmp_path / "empty.ckpt").touch()
    (tmp_path / "image.ckpt").write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(range(256)))
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "run.json").write_text("{}")
    (tmp_path / "run" / "checkpoints" / "best.ckpt").symlink_to("/dev/zero")
    for name in ("pipe.ckpt", "loop.ckpt", "zero.ckpt", "folder.ckpt", "empty.ckpt", "image.ckpt", "run"):
        assert main(["predict", f"ckpt={tmp_path / name}", f"input={tmp_path}", f"output={tmp_path / 'o.csv'}"]) == 4
        assert 1 <= len(capsys.readouterr().err.splitlines()) <= 3


@pytest.fixture
def asked() -> Iterator[tuple[str, list[str]]]:
    """Yield the address of a server and the list of its requests."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *given: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()
    server.server_close()


def test_an_address_is_refused_and_never_asked(
    asked: tuple[str, list[str]], small: list[str], tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    server, requests = asked
    monkeypatch.setenv("HF_ENDPOINT", server)
    addresses = [f"{server}/x.ckpt", "https://x.test/x.ckpt", "s3://x/x.ckpt", "file:///x.ckpt", "hf-hub:x/y"]
    commands = [["predict", f"ckpt={address}", "input=.", "output=o.csv"] for address in addresses] + [
        ["evaluate", f"ckpt=[{server}/x.ckpt,{server}/y.ckpt]", "block=significance"],
        ["export", f"ckpt={server}/x.ckpt", "out=o.onnx"],
        ["train", *small, "out=run", f"init_from={server}/x.ckpt"],
        ["train", f"resume={server}/x"],
        ["train", *(word for word in small if "weights" not in word), "out=run", f"model.weights={server}/x.pth"],
    ]
    for command in commands:
        assert main(command) == 4, command
        err = capsys.readouterr().err
        assert "Download it first" in err, (command, err)
        assert len(err.splitlines()) <= 3
    assert requests == []


@pytest.mark.parametrize("place", ["runs/one", "C:/runs/one", "a: b", ":", "s3://bucket/run"])
def test_what_no_entry_opens_is_a_path(place: str) -> None:
    assert not is_run_address(place)
    assert locate_run(place) == Path(place)


def test_an_entry_of_a_user_opens_the_addresses_that_begin_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "run_address").mkdir()
    (tmp_path / "run_address" / "lab.py").write_text(
        "def fetch_run(address, option):\n    return {'ckpt': '/a', 'runs': '/b'}[option] + address[4:]\n"
    )
    with entries.use_folders([tmp_path]):
        assert (locate_run("lab:/x"), locate_run("lab:/x", "runs")) == (Path("/a/x"), Path("/b/x"))
        with pytest.raises(ConfigError, match=r"run_address lab: .*lab.py failed: KeyError: 'to'"):
            locate_run("lab:/x", "to")


def test_an_address_of_a_plugin_that_is_missing_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "find_plugins", dict)
    monkeypatch.syspath_prepend(tmp_path)  # for another path, entries are found anew
    assert is_run_address("hf:someone/avatars")
    with pytest.raises(ConfigError, match=r"ckpt=hf:someone/avatars: .* plug-in hub"):
        locate_run("hf:someone/avatars")
