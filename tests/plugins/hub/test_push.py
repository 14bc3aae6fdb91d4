"""push, and ckpt=hf:OWNER/NAME, against a server that speaks the hub's HTTP API."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import pickle
import re
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pandas as pd
import pytest
import yaml
from huggingface_hub import parse_eval_result_entries

from avatar_bench.cli.app import main
from avatar_bench.plugins.hub.command import push
from avatar_bench.results.reasons import Reason
from avatar_bench.runs.record import list_licences, read_record
from tests.commands.conftest import Child
from tests.plugins.hub.hub_server import TOKEN, Hub, Repository, serve_hub

NAME = "someone/avatars"
ADDRESS = f"hf:{NAME}"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """Return the server; the hub's client, which reads its variables once, is pointed to it."""
    with serve_hub() as hub:
        settings = {
            "ENDPOINT": hub.address,
            "HUGGINGFACE_CO_URL_TEMPLATE": hub.address + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "hub_cache"),
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_OFFLINE": False,
        }
        for name, value in settings.items():
            monkeypatch.setattr(huggingface_hub.constants, name, value)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("AVATAR_BENCH_CACHE", str(tmp_path / "cache"))
        yield hub


@pytest.fixture(scope="module")
def evaluated(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tiny run that was evaluated on its blind set; its record names a host, a user and folders."""
    run = tmp_path_factory.mktemp("pushed") / "run"
    shutil.copytree(tiny_run, run, ignore=shutil.ignore_patterns("evaluation", "predictions"))
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    record["process"] = {"host": "host-of-the-test", "pid": 1}
    record["init"] |= {"weights": "/home/user-of-the-test/net.pth", "licence": "apache-2.0"}
    record["init"]["teacher"] = {"run": "/home/user-of-the-test/teacher", "sha256": "0", "licence": "fair-use"}
    (run / "run.json").write_text(json.dumps(record), encoding="utf-8")
    split = pd.read_csv(run / "split.csv")
    split["other:licence"] = np.where(split["source"] == "gan", "CC0", "")
    split.to_csv(run / "split.csv", index=False)
    blocks = ["block=[blind_test,calibration,error_bias]"]
    assert main(["evaluate", f"ckpt={run}", "split=blind", *blocks, "data.workers=0", "allow=[overlap]"]) == 0
    metrics = run / "evaluation" / "blind" / "blind_test" / "metrics.json"
    result = json.loads(metrics.read_text(encoding="utf-8"))
    private = Reason("ood_set_unreadable", why="user-of-the-test Last/cats/bad.png is gone").plain
    result["warnings"].append(private)
    result["metrics"]["mcc"] = {"value": None, "n": 0, "reason": private}
    metrics.write_text(json.dumps(result), encoding="utf-8")
    return run


@pytest.fixture(scope="module")
def shared(evaluated: Path) -> dict[str, bytes]:
    """The files of the evaluated run as it is pushed, by name."""
    folder = evaluated.with_name("avatars")
    assert main(["push", str(evaluated), f"to={folder}"]) == 0
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def predict(ckpt: str, images: Path, out: Path) -> pd.DataFrame:
    """Return probabilities of the blind set by path, scaled and not: scaled ones are near 0 and 1."""
    words = ["predict", f"ckpt={ckpt}", f"input={images / 'blind.csv'}", f"output={out}", "precision=32", "workers=0"]
    collected = []
    for calibrated in ("true", "false"):
        assert main([*words, f"calibrated={calibrated}"]) == 0
        collected.append(pd.read_csv(out).set_index("path").filter(like="prob_").add_suffix(calibrated))
    return collected[0].join(collected[1])


def test_what_is_pushed_is_private_and_names_no_path_host_or_user(
    hub: Hub, evaluated: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(evaluated), f"to={ADDRESS}"]) == 0
    repository = hub.repositories[NAME]
    (commit,) = repository.commits
    assert f"{ADDRESS}@{commit}: private, 1.5 MB" in capsys.readouterr().out
    assert repository.private
    assert set(repository.commits[commit]) == {"README.md", "run.json", "model.safetensors", "trained_on.csv"}
    files = repository.commits[commit]
    places = (Path.home(), Path.cwd(), evaluated, images, tmp_path.parent)
    assert {*files.values()} <= {*hub.received}
    assert not [asked for asked in hub.asked if "torch/" in asked or "agent" in asked]  # no reports of use
    for text in ("host-of-the-test", "user-of-the-test", *map(str, places)):
        assert all(text.encode() not in part for part in hub.received), text
    weights = files.pop("model.safetensors")
    texts = b"\n".join([*files.values(), weights[8 : 8 + int.from_bytes(weights[:8], "little")]]).decode()
    for word in {socket.gethostname(), getpass.getuser()} - {"root"}:  # the name of a key, too
        assert not re.search(rf"\b{re.escape(word)}\b", texts)


def test_the_card_states_the_saved_metrics_sources_failures_and_licences(
    shared: dict[str, bytes], evaluated: Path
) -> None:
    _, head, body = shared["README.md"].decode().split("---\n", 2)
    metadata = yaml.safe_load(head)
    saved = {}
    for block in ("blind_test", "calibration"):
        saved |= json.loads((evaluated / "evaluation" / "blind" / block / "metrics.json").read_text())["metrics"]
    (index,) = metadata["model-index"]
    (result,) = (metric for metric in index["results"] if metric["dataset"]["name"] == "blind")
    collected = {metric["type"]: (metric["value"], metric["args"].get("low")) for metric in result["metrics"]}
    assert collected.keys() == {"accuracy", "balanced_accuracy", "macro_f1", "scaled/ece_15", "ece_15"}
    names = {metric["type"]: metric["name"] for metric in result["metrics"]}
    assert (names["scaled/ece_15"], names["ece_15"]) == ("ECE, 15 bins", "raw ECE, 15 bins")
    assert collected == {name: (saved[name]["value"], saved[name].get("low")) for name in collected}
    assert (metadata["license"], metadata["license_name"]) == ("other", "apache-2.0 and fair-use")
    assert {"drawing", "generated", "real"} <= set(metadata["tags"])
    for words in (
        "| generated | diffusion | 16 | not stated |",
        "| generated | gan | 16 | CC0 |",
        "### blind\n\nGuards switched off: overlap.",
        "The sources with the lowest accuracy in blind",
        "| ECE, 15 bins |",
        "| raw ECE, 15 bins |",
        "Probabilities are scaled by the temperature 0.05 of training.",
        "initial weights (net.pth): apache-2.0",
        "- teacher: fair-use",
        "**Meaning of the classes.**",
        "**Validity.**",
        "- blind, blind\\_test: few\\_images",
        "- blind, blind\\_test: ood\\_set\\_unreadable",
        "| MCC | none: ood\\_set\\_unreadable |",
        "- Robustness",
    ):
        assert words in body, words


def test_the_metrics_on_a_benchmark_of_the_hub_are_its_eval_results(
    hub: Hub, evaluated: Path, shared: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    metadata = yaml.safe_load(shared["README.md"].decode().split("---\n", 2)[1])
    assert main(["push", str(evaluated), f"to={ADDRESS}", "benchmarks={blind: hf:lab/avatar-test@v2}"]) == 0
    ((_, files),) = hub.repositories[NAME].commits.items()
    entries = parse_eval_result_entries(yaml.safe_load(files[".eval_results/avatar-bench.yaml"]))
    assert {(entry.dataset_id, entry.dataset_revision) for entry in entries} == {("lab/avatar-test", "v2")}
    index = metadata["model-index"][0]["results"][0]["metrics"]
    assert {entry.task_id: entry.value for entry in entries} == {one["type"]: one["value"] for one in index}
    notes = {entry.task_id: str(entry.notes) for entry in entries}
    assert re.fullmatch(r"[\d.]+ \[[\d.]+, [\d.]+\] \(for these sources\), n = 42", notes["accuracy"]), notes
    hub.repositories[NAME].commits.popitem()
    hub.repositories[NAME].commit(files | {".eval_results/others.yaml": b"[]"})
    assert main(["push", str(evaluated), f"to={ADDRESS}"]) == 0
    kept = {name for name in list(hub.repositories[NAME].commits.values())[-1] if "eval" in name}
    assert kept == {".eval_results/others.yaml"}
    capsys.readouterr()
    for value, reason in (
        ("blnd: hf:a/b", "not evaluated on a set of this name; did you mean"),
        ("blind: a/b", "expected hf:"),
    ):
        assert main(["push", str(evaluated), f"to={ADDRESS}", f"benchmarks={{{value}}}"]) == 2
        assert reason in capsys.readouterr().err


def test_a_pushed_run_predicts_the_same_and_knows_its_training_images(
    hub: Hub, evaluated: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(evaluated), f"to={ADDRESS}", "private=false", "licence=mit"]) == 0
    assert not hub.repositories[NAME].private
    ((commit, files),) = hub.repositories[NAME].commits.items()
    assert "\nlicense: mit\n" in files["README.md"].decode()
    before = predict(str(evaluated), images, tmp_path / "before.csv")
    for ckpt in (ADDRESS, f"{ADDRESS}@{commit}"):
        after = predict(ckpt, images, tmp_path / "after.csv")
        np.testing.assert_allclose(after, before.loc[after.index], atol=1e-6, rtol=0)
    assert before["prob_realfalse"].round(4).nunique() > 10
    capsys.readouterr()
    data = ["data=manifest", "data.workers=0"]
    assert main(["evaluate", ADDRESS, *data, f"data.manifest={images / 'all.csv'}"]) == 3
    assert "shares 96 of 192 images with the detector training data" in capsys.readouterr().err
    assert main(["evaluate", ADDRESS, *data, f"data.manifest={images / 'blind.csv'}", "block=blind_test"]) == 0
    assert "cannot be checked" not in capsys.readouterr().err
    assert main(["report", f"runs={ADDRESS}", f"out={tmp_path / 'report.html'}"]) == 0
    calibrate = ["calibrate", ADDRESS, "data=manifest", f"data.manifest={images / 'blind.csv'}", "workers=0"]
    assert main(calibrate) == 0
    (folder,) = (tmp_path / "cache" / "hub" / "someone").iterdir()
    assert list_licences(read_record(folder)) == ["mit", "apache-2.0", "fair-use"]
    assert main(["export", ADDRESS, f"out={tmp_path / 'net.safetensors'}"]) == 0
    again = predict(str(folder), images, tmp_path / "calibrated.csv")
    assert main(["push", str(folder), f"to={tmp_path / 'shared'}"]) == 0
    shared = predict(str(tmp_path / "shared"), images, tmp_path / "shared.csv")
    np.testing.assert_allclose(shared, again.loc[shared.index], atol=1e-6, rtol=0)
    err = capsys.readouterr().err
    assert "SHA-256 of 96 training images; of 42 calibration images SHA-256 and, apart from it, label" in err
    assert "which a receiver cannot match" in err


def test_a_pushed_calibration_decides_the_same_and_tells_nothing_of_an_image(
    evaluated: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(evaluated, tmp_path / "calibrated")
    blind = ["data=manifest", f"data.manifest={images / 'blind.csv'}"]
    assert main(["calibrate", str(run), *blind, "workers=0"]) == 0
    for name in ("one", "two"):
        assert main(["push", str(run), f"to={tmp_path / name}"]) == 0
    folders = (run, tmp_path / "one", tmp_path / "two")
    texts = [(folder / "calibration.json").read_text(encoding="utf-8") for folder in folders]
    assert str(images) not in texts[1]
    assert "blind/real" not in texts[1]
    own, one, two = (pd.DataFrame(json.loads(text)["images"]) for text in texts)
    assert sorted(own["sha256"]) == list(one["sha256"]) != list(own["sha256"])
    assert one[["label", "source", "part", "probabilities"]].equals(own[["label", "source", "part", "probabilities"]])
    assert not set(one["group"]) & {*own["group"], *two["group"]}
    assert (pd.factorize(one["group"])[0] == pd.factorize(own["group"])[0]).all()
    assert not one[["phash", "turned_phashes", "stated_group"]].any(axis=None)
    decisions = []
    for folder in folders:
        out = tmp_path / f"{folder.name}.csv"
        words = ["predict", f"ckpt={folder}", f"input={images / 'all.csv'}", f"output={out}", "target_error=.2"]
        assert main([*words, "workers=0"]) == 0
        decisions.append(pd.read_csv(out).filter(regex="^decision|prediction_set|ood"))
    assert decisions[0].equals(decisions[1])
    assert decisions[0].equals(decisions[2])
    assert len(decisions[0]["decision"].unique()) > 1
    assert main(["evaluate", str(tmp_path / "one"), *blind, "block=blind_test", "data.workers=0"]) == 3
    assert "shares 42 of 42 images with the calibration data by image" in " ".join(capsys.readouterr().err.split())


def tamper(files: dict[str, bytes], repository: Repository) -> None:
    """Change a weight on the server, which states the hash of the original."""
    repository.stated["model.safetensors"] = repository.describe("model.safetensors", files["model.safetensors"])[
        "lfs"
    ]["oid"]
    files["model.safetensors"] = files["model.safetensors"][:-1] + b"\x7f"


def tamper_with_hash(files: dict[str, bytes], repository: Repository) -> None:
    """Change a weight and the hash that the server states."""
    files["model.safetensors"] = files["model.safetensors"][:-1] + b"\x7f"


def tamper_with_record(files: dict[str, bytes], repository: Repository) -> None:
    """Change the record, of which the server states the hash of the original."""
    repository.stated["run.json"] = repository.describe("run.json", files["run.json"])["oid"]
    files["run.json"] = files["run.json"].replace(b'"seed": 42', b'"seed": 43')


def put_bin(files: dict[str, bytes], repository: Repository) -> None:
    """Replace the weights by a pickle under the name that is usual on the hub."""
    del files["model.safetensors"]
    files["pytorch_model.bin"] = pickle.dumps({"weights": [1, 2, 3]})


def put_imported(files: dict[str, bytes], repository: Repository) -> None:
    detector = {"classes": ["drawing", "generated", "real"], "architecture": "hf_hub:someone/other", "arguments": {}}
    record = json.loads(files["run.json"]) | {"status": "imported", "kind": "timm", "detector": detector}
    files["run.json"] = json.dumps(record).encode()


@pytest.mark.parametrize(
    ("change", "address", "reason"),
    [
        (tamper, ADDRESS, "model.safetensors is not the file that the hub states"),
        (tamper_with_hash, ADDRESS, "is damaged or belongs to another run"),
        (tamper_with_record, ADDRESS, "run.json is not the file that the hub states"),
        (put_bin, ADDRESS, "it has no model.safetensors"),
        (put_imported, ADDRESS, "holds an imported detector, which push does not share"),
        (None, f"{ADDRESS}@v2", "the repository has no such revision"),
        (None, "hf:someone/nothing", "there is no such repository, or it is private"),
        ("offline", ADDRESS, "the hub cannot be reached, and the run is not in the cache"),
        (None, "hf:someone", "expected hf:OWNER/NAME"),
    ],
)
def test_what_is_not_the_pushed_run_is_refused(
    change: Callable[[dict[str, bytes], Repository], None] | str | None,
    address: str,
    reason: str,
    hub: Hub,
    shared: dict[str, bytes],
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    repository = hub.repositories[NAME] = Repository(private=True)
    repository.commit(files := dict(shared))
    if callable(change):
        change(files, repository)
    elif change == "offline":
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    words = ["predict", f"ckpt={address}", f"input={images / 'blind.csv'}", f"output={tmp_path / 'out.csv'}"]
    assert main(words) == (2 if address == "hf:someone" else 4)
    err = capsys.readouterr().err
    assert reason in err
    assert len(err.splitlines()) <= 3
    assert not (tmp_path / "out.csv").exists()


def test_a_pickle_under_the_name_of_the_weights_is_not_loaded_even_with_its_hash(
    hub: Hub, shared: dict[str, bytes], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    canary = tmp_path / "executed"

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (canary,)

    weights = pickle.dumps(Payload())
    record = json.loads(shared["run.json"]) | {"checkpoint_sha256": hashlib.sha256(weights).hexdigest()}
    repository = hub.repositories[NAME] = Repository(private=False)
    repository.commit(shared | {"model.safetensors": weights, "run.json": json.dumps(record).encode()})
    assert main(["predict", f"ckpt={ADDRESS}", f"input={images / 'blind.csv'}"]) == 4
    assert "cannot be read as a checkpoint" in capsys.readouterr().err
    assert not canary.exists()


def test_a_push_replaces_neither_other_models_nor_public_ones_by_accident(
    hub: Hub, evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.repositories[NAME] = Repository(private=True)
    hub.repositories[NAME].commit({"pytorch_model.bin": b"0"})
    assert main(["push", str(evaluated), f"to={ADDRESS}"]) == 2
    assert "holds something else: pytorch_model.bin" in capsys.readouterr().err
    hub.repositories[NAME] = Repository(private=False)
    assert main(["push", str(evaluated), f"to={ADDRESS}"]) == 2
    assert "is public" in capsys.readouterr().err
    assert hub.repositories[NAME].commits == {}
    hub.repositories[NAME] = Repository(private=True)
    hub.repositories[NAME].commit({"run.json": b"{}", "calibration.json": b"of an earlier run"})
    assert main(["push", str(evaluated), f"to={ADDRESS}", "private=false"]) == 0
    assert not hub.repositories[NAME].private
    assert "calibration.json" not in list(hub.repositories[NAME].commits.values())[-1]
    monkeypatch.delenv("HF_TOKEN")
    assert main(["push", str(evaluated), "to=hf:someone/other"]) == 4
    assert "`hf auth login` or HF_TOKEN" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").touch()
    assert main(["push", str(evaluated), f"to={tmp_path / 'full'}"]) == 3
    assert main(["push", str(evaluated / "checkpoints" / "best.ckpt"), f"to={tmp_path / 'x'}"]) == 4
    assert "Expected the folder of a run made by train" in capsys.readouterr().err


def test_what_a_killed_push_has_left_is_removed_by_the_next(
    evaluated: Path, tmp_path: Path, fork: Callable[..., Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_and_be_killed(path: Path, folder: Path, settings: object) -> None:
        (folder / "half").touch()
        os.kill(os.getpid(), signal.SIGKILL)

    words = ["push", str(evaluated), f"to={tmp_path / 'shared' / 'out'}"]
    child = fork(*words, before=lambda: monkeypatch.setattr(push, "_write_files", write_and_be_killed))
    assert child.end() == -signal.SIGKILL
    assert list((tmp_path / "shared").rglob("half"))
    monkeypatch.setattr(push, "_write_files", lambda path, folder, settings: (folder / "run.json").touch())
    assert main(words) == 0
    assert [path.name for path in sorted((tmp_path / "shared").rglob("*"))] == ["out", "run.json"]
