"""Labels and images that have changed since a run was trained or a set was first evaluated."""

import json
import os
import shutil

import pandas as pd
import pytest
from PIL import Image

from avatar_bench.files import hashes
from avatar_bench.files.hashes import sha256_of_file
from tests.builders.commands import copy_run, data_of, read_result

FEW = "block.blind_test.resamples=100"
WAY_OUT = "Restore them, or compute with labels and images as they are now: update=true, counted in each result."


@pytest.fixture(scope="module")
def trained(images, train, tmp_path_factory):
    """A folder with images of its own, all.csv and blind.csv, and a run trained on it; tests change copies of it."""
    root = tmp_path_factory.mktemp("changed") / "root"
    shutil.copytree(images, root)
    train(root / "run", f"data.manifest={root / 'all.csv'}", f"data.blind={root / 'blind.csv'}", "epochs=2")
    return root


@pytest.fixture
def root(trained):
    """The folder of the run, whose files are as they were again after the test."""
    before = {file: file.read_bytes() for file in trained.rglob("*") if file.is_file()}
    yield trained
    for file in trained.rglob("*"):
        if file.is_file() and file not in before:
            file.unlink()
    for file, content in before.items():
        if not file.exists() or file.read_bytes() != content:
            file.write_bytes(content)


@pytest.fixture
def evaluate(command):
    """Return a function that evaluates a run by blind_test, and returns what the command has printed."""

    def run(folder, *words, code=0):
        few = [] if any(word.startswith("block=") for word in words) else [FEW]
        return command("evaluate", f"ckpt={folder}", "data.workers=0", *few, *words, code=code)

    return run


def list_paths(run, split):
    """Return the paths of the images of a split."""
    return pd.read_csv(run / "split.csv").query("split == @split")["path"].tolist()


def correct(manifest, **values):
    """Change cells of a manifest: column={path: value}."""
    table = pd.read_csv(manifest, dtype=str).set_index("path")
    for column, cells in values.items():
        for path, value in cells.items():
            table.loc[path, column] = value
    table.reset_index().to_csv(manifest, index=False)


def redraw(file):
    """Replace the bytes of an image by those of its mirror image turned and darkened, which is no copy of any."""
    with Image.open(file) as image:
        image.convert("RGB").effect_spread(9).point(lambda level: level // 2).save(file)


def test_a_corrected_label_is_named_and_counted(root, evaluate, command):
    run = root / "run"
    evaluate(run)
    before = read_result(run, "test")
    assert "already there" in evaluate(run).out
    path, other = list_paths(run, "test")[:2]
    old = pd.read_csv(root / "all.csv").set_index("path").loc[path, "label"]
    new = "real" if old != "real" else "drawing"
    correct(root / "all.csv", label={path: new}, source={other: "elsewhere"})
    for block in ("blind_test", "calibration"):  # neither a saved result nor a new block uses the old label
        lines = evaluate(run, f"block={block}", code=3).err.splitlines()
        assert lines[0].endswith("test has changed since the run was trained: 1 other label, 1 other source.")
        assert lines[1].startswith(f"{path}: {old} -> {new}, {other}: ")
        assert lines[2] == WAY_OUT
    printed = evaluate(run, "update=true")
    assert "already there" not in printed.out
    reason = "test has changed since it was first used, and is evaluated as it is now: 1 other label; 1 other source."
    assert reason in printed.err
    saved = read_result(run, "test")
    counts = [{"code": "changed_label", "n": 1}, {"code": "changed_source", "n": 1}]
    reasons = [{"code": "data_changed", "set": "test", "changes": counts}]
    assert saved["provenance"]["data_changed"] == saved["provenance"]["leakage"][:1] == reasons
    assert reasons[0] in saved["warnings"]
    assert saved["provenance"]["data_fingerprint"] != before["provenance"]["data_fingerprint"]
    table = pd.read_csv(run / "evaluation" / "test" / "blind_test" / "predictions.csv").set_index("path")
    assert (table.loc[path, "target"], table.loc[other, "source"]) == (new, "elsewhere")
    assert "already there" in evaluate(run, "update=true").out
    evaluate(run, code=3)
    command("report", f"runs={run}", f"out={root / 'report.html'}", "lang=ru")
    assert "1 другая метка; 1 другой источник" in (root / "report.html").read_text(encoding="utf-8")


def test_replaced_and_missing_images_are_named_and_predicted_anew(root, evaluate):
    run = root / "run"
    evaluate(run)
    first, second, *others = list_paths(run, "test")
    redraw(root / first)
    (root / second).unlink()
    lines = evaluate(run, code=3).err.splitlines()
    assert "test has changed since the run was trained: 1 image of other bytes, 1 image gone." in lines[0]
    assert lines[1:] == [f"{first}: other bytes, {second}: gone, in {root}.", WAY_OUT]
    old = pd.read_csv(run / "evaluation" / "test" / "blind_test" / "predictions.csv").set_index("path")
    evaluate(run, "update=true")
    new = pd.read_csv(run / "evaluation" / "test" / "blind_test" / "predictions.csv").set_index("path")
    assert list(new.index) == [first, *others]
    assert new.loc[first, "prob_real"] != old.loc[first, "prob_real"]
    assert new.loc[others, "prob_real"].to_numpy() == pytest.approx(old.loc[others, "prob_real"].to_numpy(), abs=1e-5)
    assert read_result(run, "test")["n"] == len(others) + 1
    assert "already there" in evaluate(run, "update=true").out


def test_an_image_of_train_stays_one_whatever_its_label(root, evaluate):
    run = root / "run"
    train, (first, *_) = list_paths(run, "train"), list_paths(run, "test")
    correct(root / "all.csv", label={train[0]: "real" if "/real/" not in train[0] else "drawing"})
    evaluate(run)  # test has not changed
    (root / first).write_bytes((root / train[0]).read_bytes())
    err = evaluate(run, "update=true", code=3).err
    assert "test shares 1 of" in err
    assert "with the training data by image" in err


def test_a_split_stated_otherwise_leaves_that_of_the_run(images, train, tmp_path, evaluate):
    root = tmp_path / "root"
    shutil.copytree(images, root)
    table = pd.read_csv(root / "all.csv")
    sides = {"0": "test", "1": "val"}
    table["split"] = [sides.get(group.rpartition(":")[2], "train") for group in table["group"]]
    table.to_csv(root / "all.csv", index=False)
    words = [f"data.manifest={root / 'all.csv'}", "data.blind=null", "data.split.folds=10"]
    run = train(tmp_path / "run", *words)
    evaluate(run)
    evaluate(run, "split=val")
    path = list_paths(run, "test")[0]
    correct(root / "all.csv", split={path: "train"})
    lines = evaluate(run, code=3).err.splitlines()
    assert "1 other split stated, while that of the run remains" in lines[0]
    assert f"{path}: test -> train" in lines[1]
    n = read_result(run, "test")["n"]
    assert "already there" not in evaluate(run, "update=true").out
    assert read_result(run, "test")["n"] == n
    correct(root / "all.csv", split={path: "test"})
    assert "already there" not in evaluate(run).out
    assert read_result(run, "test")["provenance"]["data_changed"] == []


@pytest.mark.parametrize("by", ["path", "data", "stated"])
def test_other_sets_are_compared_with_their_first_evaluation(by, root, evaluate):
    run, manifest = root / "run", root / "blind.csv"
    words = ["split=blind"] if by == "path" else [*data_of(manifest), "data.name=june"]
    name = "blind" if by == "path" else "june"
    if by == "stated":  # the manifest states hashes, which nothing else reads
        table = pd.read_csv(manifest)
        table.assign(sha256=[sha256_of_file(root / path) for path in table["path"]]).to_csv(manifest, index=False)
    evaluate(run, *words)
    assert "already there" in evaluate(run, *words).out
    first, second, third = pd.read_csv(manifest)["path"][:3]
    correct(manifest, label={first: "real"})
    redraw(root / second)
    table = pd.read_csv(manifest)
    table[table["path"] != third].to_csv(manifest, index=False)
    for more in ([], ["block=calibration"], ["again=true"]):
        lines = evaluate(run, *words, *more, code=3).err.splitlines()
        assert f"{name} has changed since it was first evaluated: " in lines[0]
        assert lines[0].endswith("1 other label, 1 image of other bytes, 1 image gone.")
        assert lines[1] == f"{first}: drawing -> real, {second}: other bytes, {third}: gone, in {root}."
    evaluate(run, *words, "update=true")
    saved = read_result(run, name)
    assert [change["code"] for change in saved["provenance"]["data_changed"][0]["changes"]] == [
        *("changed_label", "changed_sha256", "changed_gone")
    ]
    assert saved["n"] == len(table) - 1
    assert "already there" in evaluate(run, *words, "update=true").out


def test_a_set_that_a_block_reads_is_compared_too(root, evaluate):
    run, faces = root / "run", root / "faces"
    shutil.copytree(root / "blind" / "real" / "new-real", faces)
    words = ["block=out_of_domain", "block.out_of_domain.resamples=100", f"data.ood={{faces: {faces}}}"]
    evaluate(run, *words)
    redraw(next(faces.iterdir()))
    assert (
        "faces has changed since it was first evaluated: 1 image of other bytes." in evaluate(run, *words, code=3).err
    )
    evaluate(run, *words, "update=true")
    assert "faces" in [reason.get("set") for reason in read_result(run, "test", "out_of_domain")["warnings"]]


def test_a_run_without_its_images_is_read_as_before(root, evaluate, tmp_path):
    run = root / "run"
    evaluate(run)
    moved = tmp_path / "run"
    shutil.copytree(run, moved)
    record = json.loads((moved / "run.json").read_text())
    record["data"]["root"] = str(tmp_path / "elsewhere")
    (moved / "run.json").write_text(json.dumps(record))
    assert "already there" in evaluate(moved).out
    assert "already there" in evaluate(copy_and_keep(run, tmp_path / "other")).out


def copy_and_keep(run, copy):
    """Copy a run with its results and its predictions."""
    return shutil.copytree(run, copy_run(run, copy), dirs_exist_ok=True)


def test_what_has_not_changed_is_not_read_again(root, evaluate, monkeypatch):
    run = root / "run"
    monkeypatch.setattr(hashes, "_SETTLED_SECONDS", -1e9)
    evaluate(run)
    monkeypatch.setattr(hashes, "_kept", {})  # as in a process of its own
    read = []
    monkeypatch.setattr(hashes, "_read", lambda file, call=hashes._read: read.append(file) or call(file))
    evaluate(run)
    images = {root / path for path in list_paths(run, "test")}
    assert not images & set(read)
    file = sorted(images)[0]
    os.utime(file)
    evaluate(run)
    assert images & set(read) == {file}
