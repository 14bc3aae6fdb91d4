"""Building a data set by prepare, as a user types it."""

import errno
import io
import json
import os
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from avatar_bench.cli.app import main
from avatar_bench.config.catalogue import find_conf_folder
from avatar_bench.config.composition import register
from avatar_bench.evaluation.blocks.data_audit import DataAudit
from avatar_bench.sources.build import WORK_FOLDER, demo_root

AUDIT_OPTIONS = ("resamples=100", "folds=2", "equalised=false", "label_errors=false", "marks=false")
QUICK = [f"block.data_audit.{option}" for option in AUDIT_OPTIONS]
SOURCE = """# @package source.tiny
# A wheel with two images.
kind: package
label: real
licence: CC0
author: a test
generator: ""
homepage: about:blank
distribution: tiny-faces
version: "1.0"
archive: wheel
files:
  "*.png": null
"""
DATA = """defaults:
  - /source@sources.tiny: tiny
  - _self_
kind: demo
root: null
blind_sources: []
"""


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Serve a wheel to pip from a folder, and let a user's conf name it as data=tiny and source=tiny."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("AVATAR_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AVATAR_BENCH_CONF", str(tmp_path / "conf"))
    with zipfile.ZipFile(tmp_path / "tiny_faces-1.0-py3-none-any.whl", "w") as wheel:
        for name, image in {"red": Image.new("RGB", (60, 60), "red"), "linear": Image.linear_gradient("L")}.items():
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            wheel.writestr(f"tiny_faces/{name}.png", buffer.getvalue())
        wheel.writestr("tiny_faces-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-faces\nVersion: 1.0\n")
        wheel.writestr("tiny_faces-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("tiny_faces-1.0.dist-info/RECORD", "")
    for group, text in (("source", SOURCE), ("data", DATA)):
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / "tiny.yaml").write_text(text)
    return tmp_path


def folder(root, out, *words):
    return ["prepare", "source=folder", f"source.folder.root={root}", f"out={out}", *QUICK, *words]


def manifest_of(out):
    return pd.read_csv(out / "manifest.csv")


def test_an_outdated_demo_is_built_anew_and_then_drawn_alone_in_the_language_that_is_chosen(tiny, command, monkeypatch):
    root = demo_root()
    card, metrics = root / "card.html", root / "audit" / "metrics.json"
    headings = {"en": "Shortcuts: what reveals the class", "ru": "Ложные признаки: что выдаёт класс"}
    root.mkdir(parents=True)
    (root / "recipe.json").write_text('{"sha256": "00"}')
    printed = command("prepare", "data=tiny", "lang=ru", *QUICK)
    assert "пригоден ли этот набор" in printed.err
    assert "tiny: real, a test; licence: CC0" in printed.err
    assert headings["ru"] in card.read_text(encoding="utf-8")
    assert len(manifest_of(tiny / "cache" / "demo")) == 2
    saved = metrics.read_text(encoding="utf-8")
    assert json.loads(saved)["provenance"]["assessment"]["reasons"] == [{"code": "one_class"}]
    assert not re.search("[а-яё]", saved, re.IGNORECASE)
    monkeypatch.setattr(DataAudit, "audit", lambda *_: pytest.fail("audited again"))  # it is only drawn again
    summary = f"{root}: 2 real; blind set: none; card: {card}\n"
    assert printed.out == f"wrote {summary}"
    assert command("prepare", "data=tiny", *QUICK).out == f"already complete: {summary}"
    assert headings["en"] in card.read_text(encoding="utf-8")
    assert metrics.read_text(encoding="utf-8") == saved
    assert (metrics.parent / "properties.png").is_file()


def test_an_out_of_domain_set_has_a_manifest_of_its_own_and_no_image_to_train_on(tiny, command):
    (tiny / "conf" / "data" / "tiny.yaml").write_text(
        "defaults:\n  - /source@sources.tiny: tiny\n  - /source@sources.icons: icons\n  - _self_\n"
        "kind: demo\nroot: null\nblind_sources: []\nood_sources: {signs: [icons]}\nprepare: {folds: 4}\n"
    )
    words, root = ["prepare", "data=tiny", "data.sources.icons.count=3", *QUICK], demo_root()
    assert "2 real; blind set: none; out of domain: 3 signs" in command(*words).out
    signs, sources = pd.read_csv(root / "ood_signs.csv"), pd.read_csv(root / "sources.csv").set_index("source")
    assert set(manifest_of(root)["source"]) == {"tiny"}
    assert len(pd.read_csv(root / "blind.csv")) == 0
    assert set(signs["label"]) == {"icon"}
    assert all((root / path).is_file() for path in signs["path"])
    assert sources.loc["icons", ["licence", "blind", "ood"]].tolist() == ["Apache-2.0", False, "signs"]
    assert json.loads((root / "recipe.json").read_text())["recipe"]["plan"]["folds"] == 4
    assert command(*words).out.startswith("already complete")


@pytest.mark.parametrize("command_name", ["prepare", "train"])
def test_the_demo_brings_its_sources_along(command_name):
    register(command_name)  # and the blocks in its defaults
    with initialize_config_dir(str(find_conf_folder()), version_base="1.3"):
        data = OmegaConf.to_container(compose(command_name, ["data=demo"]))["data"]
    sources, blind = data["sources"], set(data["blind_sources"])
    ood = {name for names in data["ood_sources"].values() for name in names}
    assert blind < set(sources)
    assert ood < set(sources)
    for names in (blind - ood, set(sources) - blind - ood):
        assert {sources[name]["label"] for name in names} == {"real", "drawing", "generated"}
    assert set(data["ood_sources"]) == {"things", "icons", "textures"}


def test_class_folders_become_a_data_set_whose_split_and_folds_train_takes_over(images, train, tmp_path):
    out = tmp_path / "set"
    assert main(folder(images / "blind", out)) == 0
    manifest = manifest_of(out)
    assert manifest.value_counts(["label", "source"]).to_dict() == {
        (label, f"new-{label}"): 14 for label in ("drawing", "generated", "real")
    }
    shares = pd.crosstab(manifest["label"], manifest["split"], normalize="index")
    assert shares["train"].between(0.78, 0.82).all()
    assert manifest.groupby("group")["split"].nunique().max() == 1
    assert (out / "card.md").read_text().count("drawing") > 1
    audit = json.loads((out / "audit" / "metrics.json").read_text())
    assert audit["metrics"]["metadata_auroc"]["n"] == 42
    assert audit["provenance"]["assessment"]["suitable"] == "with_care"
    assert {"sources.csv", "quarantine.csv", "duplicates.csv", "recipe.json"} <= {path.name for path in out.iterdir()}
    words = ["data=manifest", f"data.manifest={out / 'manifest.csv'}", "data.blind=null", "data.split.folds=10"]
    run = train(tmp_path / "run", *words, "data.fold=3", "trainer=debug")
    used = pd.read_csv(run / "split.csv").query("split == 'test'")
    assert set(used["path"]) == set(manifest.query("fold == 3")["path"])


@pytest.fixture
def few(images, tmp_path):
    """Return a folder of 18 images of one class, and the data set made of it."""
    root, out = tmp_path / "photos", tmp_path / "set"
    shutil.copytree(images / "blind" / "real", root / "real")
    (root / "real" / "others").mkdir()
    for number, file in enumerate(sorted((images / "blind" / "drawing").rglob("*.png"))[:4]):
        shutil.copy(file, root / "real" / "others" / f"{number}.png")
    assert main(folder(root, out)) == 0
    return root, out


def read_all(out):
    """Return the tables and images of a data set."""
    files = [path for path in sorted(out.rglob("*.*")) if path.is_file() and ".prepare" not in path.parts]
    return {path: path.read_bytes() for path in files}


@pytest.mark.slow
def test_an_update_deletes_nothing_where_a_source_cannot_be_read_or_lacks_many(few, command, monkeypatch):
    root, out = few
    before, words, scandir, photos = read_all(out), folder(root, out, "update=true"), os.scandir, root / "real/new-real"

    def refuse(path):
        if Path(path) == photos:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    with monkeypatch.context() as patch:  # the tests may run as root, who may read everything
        patch.setattr(os, "scandir", refuse)
        err = command(*words, code=3).err
    assert f"{photos}: cannot be read: Permission denied." in err
    photos.rename(root.with_name("away"))
    first, second = command(*words, code=3).err.strip().splitlines()[-2:]
    assert first.startswith(f"{out}: 14 of its images are no longer in their sources, such as real/new-real/")
    assert second == "Nothing was removed. Restore the sources, or remove the images with allow=[removed]"
    assert read_all(out) == before
    root.with_name("away").rename(photos)
    for file in sorted(photos.glob("*.*"))[:3]:
        file.unlink()
    holiday = out / "images" / "real" / "holiday.txt"  # no journal of the data set names it
    holiday.write_text("not ours")
    assert "; removed, no longer in the sources: 3; card: " in command(*words).out
    assert len(manifest_of(out)) == 15 == len(list((out / "images").rglob("*.*"))) - 1
    assert holiday.read_text() == "not ours"
    shutil.rmtree(photos)
    assert "removed, no longer in the sources: 11" in command(*words, "allow=[removed]").out
    assert set(manifest_of(out)["source"]) == {"others"}


@pytest.mark.slow
def test_data_that_cannot_answer_is_written_and_ends_with_code_3(images, tmp_path, command):
    root, out = tmp_path / "photos", tmp_path / "set"
    for label, suffix in (("real", "jpg"), ("drawing", "png")):
        (root / label).mkdir(parents=True)
        for number, file in enumerate(sorted((images / "all" / label).rglob("*.*"))[:20]):
            Image.open(file).convert("RGB").save(root / label / f"{number}.{suffix}")
    lines = command(*folder(root, out), code=3).err.splitlines()
    assert "is unsuitable for evaluation" in lines[-3]
    assert "allow=[shortcut]" in lines[-1]
    assert len(manifest_of(out)) == 40
    command(*folder(root, out), code=3)
    command(*folder(root, out, "allow=[shortcut]"))
    command(*folder(root, tmp_path / "even", "equalise=jpeg"))


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_up_as_if_undisturbed(tmp_path, fork):
    rng, root, out = np.random.default_rng(0), tmp_path / "photos", tmp_path / "disturbed" / "set"
    for label in ("drawing", "real"):
        (root / label).mkdir(parents=True)
        for number in range(120):
            small = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8))
            small.resize((300, 300), Image.Resampling.BICUBIC).save(root / label / f"{number}.png")
    (root / "real" / "broken.png").write_bytes(b"broken")
    shutil.copy(root / "real" / "7.png", root / "real" / "copy of 7.png")
    assert main(folder(root, tmp_path / "whole" / "set")) == 0
    journal = out / WORK_FOLDER / "folder.jsonl"

    def has_stored(n):
        return journal.exists() and journal.read_bytes().count(b"\n") > n

    for n in sorted(rng.integers(1, 120, 2)):  # images stored
        child = fork(*folder(root, out))
        child.until(lambda n=n: has_stored(n))
        child.kill()
        assert not (out / "recipe.json").exists()
    child = fork(*folder(root, out))
    child.until((out / "recipe.json").exists)
    child.kill()  # in the audit
    assert not (out / "card.html").exists()
    assert main(folder(root, out)) == 0
    states = []
    for data_set in (tmp_path / "whole" / "set", out):
        tables = {file.name: file.read_bytes() for file in sorted(data_set.glob("[a-z]*.[cjm]*"))}
        stored = sorted(file.name for file in (data_set / "images").rglob("*.*"))
        metrics = json.loads((data_set / "audit" / "metrics.json").read_text())["metrics"]
        states.append(({name: text for name, text in tables.items() if name != "card.html"}, stored, metrics))
    assert states[0] == states[1]


@pytest.mark.slow
def test_the_true_demo_shares_nothing_between_its_sides(tmp_path, capsys):
    demo = tmp_path / "demo"
    code, err = main(["prepare", "data=demo", f"out={demo}"]), capsys.readouterr().err
    if code == 3 and "pip could not download" in err:
        pytest.skip("the package index cannot be reached")
    assert code == 0, err
    manifest, blind = manifest_of(demo), pd.read_csv(demo / "blind.csv")
    assert "both sides" not in err
    assert not pd.read_csv(demo / "audit" / "shared_provenance.csv").size
    assert manifest["label"].value_counts().min() >= 40
    assert blind["source"].nunique() >= 8
    assert blind.groupby("label")["author"].nunique().min() >= 2
    for column in ("sha256", "source"):
        assert not set(manifest[column]) & set(blind[column])
    for name in ("things", "icons", "textures"):
        ood = pd.read_csv(demo / f"ood_{name}.csv")
        assert len(ood) >= 30
        assert not set(ood["sha256"]) & {*manifest["sha256"], *blind["sha256"]}
    assert (manifest["split"] == "val").sum() >= 2 * 20 + 10  # half of it fits a temperature and an ensemble
