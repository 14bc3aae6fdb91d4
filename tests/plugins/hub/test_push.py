"""push, and ckpt=hf:OWNER/NAME, against a server that speaks the hub's HTTP API."""

import getpass
import hashlib
import json
import pickle
import re
import shutil
import socket
from itertools import product
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pandas as pd
import pytest
import yaml
from huggingface_hub import parse_eval_result_entries

from avatar_bench import load
from avatar_bench.cli.app import main
from avatar_bench.results.reasons import Reason
from avatar_bench.runs.record import list_licences
from avatar_bench.runs.record import read_record as open_record
from tests.builders.commands import change_record, copy_run, data_of, read_record, read_result
from tests.plugins.hub.hub_server import TOKEN, Repository, serve_hub

NAME = "someone/avatars"
ADDRESS = f"hf:{NAME}"


@pytest.fixture
def hub(monkeypatch, tmp_path):
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
def evaluated(tiny_run, tmp_path_factory):
    """A copy of the tiny run that was evaluated on its blind set; its record names a host, a user and folders."""
    run = copy_run(tiny_run, tmp_path_factory.mktemp("pushed") / "run")
    record = read_record(run)
    record["process"] = {"host": "host-of-the-test", "pid": 1}
    record["init"] |= {"weights": "/home/user-of-the-test/net.pth", "licence": "apache-2.0"}
    record["init"]["teacher"] = {"run": "/home/user-of-the-test/teacher", "sha256": "0", "licence": "fair-use"}
    change_record(run, **record)
    split = pd.read_csv(run / "split.csv")
    split["other:licence"] = np.where(split["source"] == "gan", "CC0", "")
    split.to_csv(run / "split.csv", index=False)
    blocks = ("blind_test", "calibration", "error_bias")
    words = [f"block=[{','.join(blocks)}]", *(f"block.{block}.resamples=100" for block in blocks)]
    assert main(["evaluate", f"ckpt={run}", "split=blind", *words, "data.workers=0", "allow=[overlap]"]) == 0
    metrics = run / "evaluation" / "blind" / "blind_test" / "metrics.json"
    result = json.loads(metrics.read_text(encoding="utf-8"))
    private = Reason("ood_set_unreadable", why="user-of-the-test Last/cats/bad.png is gone").plain
    result["warnings"].append(private)
    result["metrics"]["mcc"] = {"value": None, "n": 0, "reason": private}
    metrics.write_text(json.dumps(result), encoding="utf-8")
    return run


@pytest.fixture(scope="module")
def shared(evaluated):
    """The files of the evaluated run as it is pushed, by name."""
    folder = evaluated.with_name("avatars")
    assert main(["push", str(evaluated), f"to={folder}"]) == 0
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def predict(ckpt, images):
    """Return the probabilities of the blind set, scaled and not: scaled ones are near 0 and 1."""
    run, files = load(ckpt), sorted((images / "blind").rglob("*.*"))[::2]
    tables = [run.predict(files, calibrated, "32").filter(like="prob_") for calibrated in (True, False)]
    return np.hstack([table.to_numpy(float) for table in tables])


def test_what_is_pushed_is_private_and_names_no_path_host_or_user(hub, evaluated, images, tmp_path, capsys):
    assert main(["push", str(evaluated), f"to={ADDRESS}"]) == 0
    repository = hub.repositories[NAME]
    (commit,) = repository.commits
    assert f"{ADDRESS}@{commit}: private, 1.5 MB" in capsys.readouterr().out
    assert repository.private
    assert set(repository.commits[commit]) == {"README.md", "run.json", "model.safetensors", "trained_on.csv"}
    files = repository.commits[commit]
    places = (Path.home(), Path.cwd(), evaluated, images, tmp_path.parent)
    assert {*files.values()} <= {*hub.received}
    assert not [request for request in hub.requests if "torch/" in request or "agent" in request]  # no reports of use
    for text in ("host-of-the-test", "user-of-the-test", *map(str, places)):
        assert all(text.encode() not in part for part in hub.received), text
    weights = files.pop("model.safetensors")
    texts = b"\n".join([*files.values(), weights[8 : 8 + int.from_bytes(weights[:8], "little")]]).decode()
    for word in {socket.gethostname(), getpass.getuser()} - {"root"}:  # the name of a key, too
        assert not re.search(rf"\b{re.escape(word)}\b", texts)


def test_the_card_states_the_saved_metrics_sources_failures_and_licences(shared, evaluated):
    _, head, body = shared["README.md"].decode().split("---\n", 2)
    metadata = yaml.safe_load(head)
    saved = {}
    for block in ("blind_test", "calibration"):
        saved |= read_result(evaluated, "blind", block)["metrics"]
    (index,) = metadata["model-index"]
    (result,) = (metric for metric in index["results"] if metric["dataset"]["name"] == "blind")
    collected = {metric["type"]: (metric["value"], metric["args"].get("low")) for metric in result["metrics"]}
    assert collected.keys() == {"accuracy", "balanced_accuracy", "macro_f1", "scaled/ece_15"}
    names = {metric["type"]: metric["name"] for metric in result["metrics"]}
    assert names["scaled/ece_15"] == "ECE, 15 bins"
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


def test_the_metrics_on_a_benchmark_of_the_hub_are_its_eval_results(hub, evaluated, shared, capsys):
    metadata = yaml.safe_load(shared["README.md"].decode().split("---\n", 2)[1])
    assert main(["push", str(evaluated), f"to={ADDRESS}", "benchmarks={blind: hf:lab/avatar-test@v2}"]) == 0
    ((_, files),) = hub.repositories[NAME].commits.items()
    entries = parse_eval_result_entries(yaml.safe_load(files[".eval_results/avatar-bench.yaml"]))
    assert {(entry.dataset_id, entry.dataset_revision) for entry in entries} == {("lab/avatar-test", "v2")}
    index = metadata["model-index"][0]["results"][0]["metrics"]
    assert {entry.task_id: entry.value for entry in entries} == {metric["type"]: metric["value"] for metric in index}
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


def test_a_pushed_run_predicts_the_same_and_knows_its_training_images(hub, evaluated, images, tmp_path, capsys):
    assert main(["push", str(evaluated), f"to={ADDRESS}", "private=false", "licence=mit"]) == 0
    assert not hub.repositories[NAME].private
    ((commit, files),) = hub.repositories[NAME].commits.items()
    assert "\nlicense: mit\n" in files["README.md"].decode()
    before = predict(evaluated, images)
    for ckpt in (ADDRESS, f"{ADDRESS}@{commit}"):
        np.testing.assert_allclose(predict(ckpt, images), before, atol=1e-6, rtol=0)
    assert len(np.unique(before[:, -1].round(4))) > 10
    capsys.readouterr()
    assert main(["evaluate", ADDRESS, *data_of(images / "all.csv"), "data.workers=0"]) == 3
    assert "shares 96 of 192 images with the detector training data" in capsys.readouterr().err
    blind, quick = data_of(images / "blind.csv"), ["block=blind_test", "block.blind_test.resamples=100"]
    assert main(["evaluate", ADDRESS, *blind, *quick, "data.workers=0"]) == 0
    assert "cannot be checked" not in capsys.readouterr().err
    assert main(["report", f"runs={ADDRESS}", f"out={tmp_path / 'report.html'}"]) == 0
    assert main(["calibrate", ADDRESS, *blind, "workers=0"]) == 0
    (folder,) = (tmp_path / "cache" / "hub" / "someone").iterdir()
    assert list_licences(open_record(folder)) == ["mit", "apache-2.0", "fair-use"]
    assert main(["export", ADDRESS, f"out={tmp_path / 'net.safetensors'}"]) == 0
    assert main(["push", str(folder), f"to={tmp_path / 'shared'}"]) == 0
    np.testing.assert_allclose(predict(tmp_path / "shared", images), predict(folder, images), atol=1e-6, rtol=0)
    err = capsys.readouterr().err
    assert "SHA-256 of 96 training images; of 42 calibration images SHA-256 and, apart from it, label" in err
    assert "which a receiver cannot match" in err


@pytest.mark.slow
def test_a_pushed_calibration_decides_the_same_and_tells_nothing_of_an_image(evaluated, images, tmp_path, capsys):
    run = shutil.copytree(evaluated, tmp_path / "calibrated")
    blind = data_of(images / "blind.csv")
    assert main(["calibrate", str(run), *blind, "workers=0"]) == 0
    assert main(["calibrate", str(run), *blind, "workers=0", "unit=source", "beta=.6", "allow=[overlap]"]) == 0
    for name in ("one", "two"):
        assert main(["push", str(run), f"to={tmp_path / name}"]) == 0
    folders = (run, tmp_path / "one", tmp_path / "two")
    texts = [(folder / "calibration.json").read_text(encoding="utf-8") for folder in folders]
    by_source = (tmp_path / "one" / "source_calibration.json").read_text(encoding="utf-8")
    assert not any(name in text for name in (str(images), "blind/real") for text in (texts[1], by_source))
    known, first, second = (pd.DataFrame(json.loads(text)["images"]) for text in texts)
    assert sorted(known["sha256"]) == list(first["sha256"]) != list(known["sha256"])
    columns = ["label", "source", "part", "probabilities"]
    assert first[columns].equals(known[columns])
    assert not set(first["group"]) & {*known["group"], *second["group"]}
    assert (pd.factorize(first["group"])[0] == pd.factorize(known["group"])[0]).all()
    assert not first[["phash", "turned_phashes", "stated_group"]].any(axis=None)
    decisions = []
    for folder, unit in product(folders[:2], ("image", "source")):
        out = tmp_path / f"{folder.name}.csv"
        words = ["predict", f"ckpt={folder}", f"input={images / 'blind.csv'}", f"output={out}", "target_error=.2"]
        assert main([*words, f"unit={unit}", "workers=0"]) == 0
        decisions.append(pd.read_csv(out).filter(regex="^decision|prediction_set|ood"))
    for unit in (0, 1):
        assert decisions[unit].equals(decisions[2 + unit])
    assert len(decisions[0]["decision"].unique()) > 1
    assert not decisions[0].equals(decisions[1])
    assert main(["evaluate", str(tmp_path / "one"), *blind, "block=blind_test", "data.workers=0"]) == 3
    assert "shares 42 of 42 images with the calibration data by image" in " ".join(capsys.readouterr().err.split())


def flip_weight(files):
    files["model.safetensors"] = files["model.safetensors"][:-1] + b"\x7f"


def change_seed(files):
    files["run.json"] = files["run.json"].replace(b'"seed": 42', b'"seed": 43')


def put_bin(files):
    """Replace the weights by a pickle under the name that is usual on the hub."""
    del files["model.safetensors"]
    files["pytorch_model.bin"] = pickle.dumps({"weights": [1, 2, 3]})


def put_imported(files):
    detector = {"classes": ["drawing", "generated", "real"], "architecture": "hf_hub:someone/other", "arguments": {}}
    record = json.loads(files["run.json"]) | {"status": "imported", "kind": "timm", "detector": detector}
    files["run.json"] = json.dumps(record).encode()


@pytest.mark.parametrize(
    ("change", "sealed", "address", "reason"),  # `sealed` is the file of which the hub states the hash of the original
    [
        (flip_weight, "model.safetensors", ADDRESS, "model.safetensors is not the file that the hub states"),
        (flip_weight, None, ADDRESS, "is damaged or belongs to another run"),
        (change_seed, "run.json", ADDRESS, "run.json is not the file that the hub states"),
        (put_bin, None, ADDRESS, "it has no model.safetensors"),
        (put_imported, None, ADDRESS, "holds an imported detector, which push does not share"),
        (None, None, f"{ADDRESS}@v2", "the repository has no such revision"),
        (None, None, "hf:someone/nothing", "there is no such repository, or it is private"),
        ("offline", None, ADDRESS, "the hub cannot be reached, and the run is not in the cache"),
        (None, None, "hf:someone", "expected hf:OWNER/NAME"),
    ],
)
def test_what_is_not_the_pushed_run_is_refused(
    change, sealed, address, reason, hub, shared, images, tmp_path, monkeypatch, capsys
):
    repository = hub.repositories[NAME] = Repository(private=True)
    repository.commit(files := dict(shared))
    if sealed:
        stated = repository.describe(sealed, files[sealed])
        repository.stated[sealed] = stated.get("lfs", stated)["oid"]
    if callable(change):
        change(files)
    elif change == "offline":
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    words = ["predict", f"ckpt={address}", f"input={images / 'blind.csv'}", f"output={tmp_path / 'out.csv'}"]
    assert main(words) == (2 if address == "hf:someone" else 4)
    err = capsys.readouterr().err
    assert reason in err
    assert len(err.splitlines()) <= 3
    assert not (tmp_path / "out.csv").exists()


def test_a_pickle_under_the_name_of_the_weights_is_not_loaded_even_with_its_hash(hub, shared, images, tmp_path, capsys):
    canary = tmp_path / "executed"

    class Payload:
        def __reduce__(self):
            return Path.touch, (canary,)

    weights = pickle.dumps(Payload())
    record = json.loads(shared["run.json"]) | {"checkpoint_sha256": hashlib.sha256(weights).hexdigest()}
    repository = hub.repositories[NAME] = Repository(private=False)
    repository.commit(shared | {"model.safetensors": weights, "run.json": json.dumps(record).encode()})
    assert main(["predict", f"ckpt={ADDRESS}", f"input={images / 'blind.csv'}"]) == 4
    assert "cannot be read as a checkpoint" in capsys.readouterr().err
    assert not canary.exists()


def test_a_push_replaces_neither_other_models_nor_public_ones_by_accident(
    hub, evaluated, tmp_path, monkeypatch, capsys
):
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
