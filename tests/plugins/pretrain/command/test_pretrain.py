"""pretrain: backbones from images without their labels, and trainings that begin with them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from avatar_bench.cli.app import main
from avatar_bench.data.dataset import read_manifest
from avatar_bench.data.leakage import split_without_leakage
from avatar_bench.data.splits import SplitPlan
from avatar_bench.files.table_io import read_csv
from avatar_bench.models import pretrained_backbone, weight_formats
from avatar_bench.models.pretrained_backbone import read_weights
from avatar_bench.plugins.pretrain.command.pretrain import PretrainConfig

METHODS = {
    "simclr": ["model.backbone=test_resnet"],
    "dino": ["model.backbone=test_resnet", "method.local_views=1"],
    "mae": ["model.backbone=test_vit", "model.options={img_size: 32}", "method.decoder_depth=1"],
}


def words(images: Path, out: Path, *more: str) -> list[str]:
    parts = {word.partition("=")[0] for word in more}
    small = [
        *("model=timm", "model.backbone=test_resnet", "data=manifest", f"data.manifest={images / 'all.csv'}"),
        *("data.image_size=32", "data.batch_size=32", "data.workers=0", "data.split.folds=4", "data.cache_gb=0"),
        *("trainer=cpu", "trainer.threads=1", "callbacks.progress=false", "logger=none", "epochs=2", "probe.every=1"),
    ]
    return ["pretrain", *(word for word in small if word.partition("=")[0] not in parts), f"out={out}", *more]


def then_touched(read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """Return a function that reads a file, which is as if written anew by then."""

    def reading(file: Path) -> Any:
        found = read(file)
        os.utime(file, ns=(0, 0))
        return found

    return reading


def options_in(lines: list[str]) -> set[str]:
    """Return the options that lines name, those of another command left out."""
    mine = re.sub(r"avatar-bench (?!pretrain)\w+( \S+)*", "", "\n".join(lines))
    return set(re.findall(r"\b([a-z_]+(?:\.[a-z_]+)*)=", mine))


def keys(place: str, options: Any) -> set[str]:
    """Return the names of all options, those of groups too."""
    own = {place} if place else set()
    inner = (
        (keys(f"{place}.{name}".lstrip("."), options[name]) for name in options) if isinstance(options, dict) else ()
    )
    return own.union(*inner)


OPTIONS = keys("", asdict(PretrainConfig())) | {"model.options", "model.backbone"}


def record(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text(encoding="utf-8"))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "backbone.safetensors")


def same(a: Path, b: Path) -> bool:
    ours, others = weights(a), weights(b)
    return ours.keys() == others.keys() and all(torch.equal(ours[name], others[name]) for name in ours)


@pytest.fixture(scope="module")
def simclr(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pretrained") / "simclr"
    assert main(words(images, out, f"data.blind={images / 'blind.csv'}")) == 0
    return out


@pytest.fixture(scope="module")
def leaky(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pretrained") / "leaky"
    assert main(words(images, out, "allow=[test_images]", "epochs=1")) == 0
    return out


@pytest.fixture(scope="module")
def with_val(images: Path, train: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A pretraining on train and val, and a run that begins with its weights; what it prints is in "said"."""
    folder = tmp_path_factory.mktemp("with val")
    assert main(words(images, folder / "pre", "use_val=true", "epochs=1")) == 0
    with (folder / "said").open("w") as said, redirect_stderr(said):
        begun = f"model.weights={folder / 'pre' / 'backbone.safetensors'}"
        train(folder / "run", "model.backbone=test_resnet", begun)
    return folder / "pre", folder / "run"


@pytest.mark.parametrize("method", METHODS)
def test_a_method_leaves_a_backbone_with_its_card_and_its_history(
    method: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(words(images, out, f"method={method}", *METHODS[method])) == 0
    assert "backbone.safetensors: 96 images, 2 epochs, loss" in capsys.readouterr().out
    said, rows = record(out), pd.read_csv(out / "metrics.csv")
    assert (said["status"], said["command"], said["method"]) == ("finished", "pretrain", method)
    assert rows["epoch"].tolist() == [0, 1, 2]
    assert rows["probe/knn_accuracy"].notna().all()
    assert rows["train/loss"].isna().tolist() == [True, False, False]
    assert said["metrics"]["probe/knn_accuracy"] == rows["probe/knn_accuracy"].iat[-1]
    assert said["before"]["probe/knn_accuracy"] == rows["probe/knn_accuracy"].iat[0]
    assert (out / "curves.png").stat().st_size > 10_000
    card = read_weights(out / "backbone.safetensors").card
    assert card is not None
    assert (card.method, card.epochs, card.seed, card.images) == (method, 2, 42, 96)
    net = timm.create_model(card.backbone, num_classes=0, **card.options)
    net.load_state_dict(weights(out))  # called as in timm


def test_a_seed_gives_the_same_weights_with_any_number_of_workers(simclr: Path, images: Path, tmp_path: Path) -> None:
    assert main(words(images, tmp_path / "two", "data.workers=2")) == 0
    assert same(simclr, tmp_path / "two")


def test_labels_are_not_read(images: Path, tmp_path: Path) -> None:
    table = read_csv(images / "all.csv")
    table["path"] = [str(images / path) for path in table["path"]]
    number = table.groupby("label").cumcount() // 2
    table["split"] = np.select([number % 4 == 0, number % 4 == 1], ["test", "val"], "train")
    shuffled = table.assign(label=table["label"].sample(frac=1, random_state=0).to_numpy())
    for name, frame in {"shuffled": shuffled, "none": table.drop(columns="label")}.items():
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
        text = f"data.manifest={tmp_path / name}.csv"
        assert main(words(images, tmp_path / name, text, "epochs=1", "data.split.folds=10")) == 0
    assert same(tmp_path / "shuffled", tmp_path / "none")
    assert "before" not in record(tmp_path / "none")  # no label, no probe


def test_a_folder_of_images_is_learned_from_whole(images: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    for number, file in enumerate(sorted((images / "all").rglob("*.png"))[:20]):
        (tmp_path / "plain" / f"{number}.png").write_bytes(file.read_bytes())
    folder = ["data=folder", f"data.root={tmp_path / 'plain'}", "epochs=1", "data.batch_size=8"]
    line = [word for word in words(images, tmp_path / "run", *folder) if not word.startswith("data.manifest")]
    assert main(line) == 0
    assert record(tmp_path / "run")["images"] == {"learned_from": 20, "kept_out": {}}


def test_rows_without_a_label_are_learned_from_unless_they_belong_to_what_is_kept_out(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = read_csv(images / "all.csv")
    table["path"] = [str(images / path) for path in table["path"]]
    labelled = table[table["group"].str.extract(r"(\d+)$").astype(int)[0] % 2 == 0]
    labelled.to_csv(tmp_path / "labelled.csv", index=False)
    sides = split_without_leakage(read_manifest(tmp_path / "labelled.csv"), SplitPlan(folds=4), (), [])
    test, val = sides.select_split("test").frame, sides.select_split("val").frame
    Image.open(test["path"].iat[0]).convert("RGB").save(tmp_path / "copy.jpg", quality=85)
    Image.open(images / read_csv(images / "blind.csv")["path"].iat[0]).save(tmp_path / "mate.png")
    strays = pd.DataFrame({"path": ["copy.jpg", "mate.png"], "source": "", "group": ["", val["group"].iat[0]]})
    half = table.assign(label=table["label"].where(table.index.isin(labelled.index), ""))
    pd.concat([strays, half]).to_csv(tmp_path / "half.csv", index=False)
    assert main(words(images, tmp_path / "run", f"data.manifest={tmp_path / 'half.csv'}", "epochs=1")) == 0
    assert "training on 144 of 194 images of half, 96 of them without a label;" in capsys.readouterr().err
    seen = set(read_csv(tmp_path / "run" / "images.csv")["path"])
    assert seen == {*half.loc[half["label"] == "", "path"], *sides.select_split("train").frame["path"]}
    kept_out = {"test": len(test) + 1, "val": len(val) + 1}
    said = record(tmp_path / "run")
    assert said["images"] == {"learned_from": 144, "kept_out": kept_out, "unlabelled": 96}
    assert said["metrics"]["probe/n"] == len(val)


def test_images_without_a_label_of_a_held_out_source_are_kept_out_with_their_copies(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = read_csv(images / "all.csv")
    table["path"] = [str(images / path) for path in table["path"]]
    free = table["group"].str.extract(r"(\d+)$").astype(int)[0] % 4 == 0
    half = table.assign(label=table["label"].where(~free, ""))
    copied = half[free & (half["source"] == "ink")].iloc[[0, -1]]
    for name, path in zip(["copy.jpg", "labelled.jpg"], copied["path"], strict=True):
        Image.open(path).convert("RGB").save(tmp_path / name, quality=85)
    known = half[(half["label"] != "") & (half["source"] != "ink")].iloc[0]
    copies = {"path": ["copy.jpg", "labelled.jpg"], "label": ["", known["label"]], "source": ["", known["source"]]}
    pd.concat([half, pd.DataFrame(copies | {"group": ""})]).to_csv(tmp_path / "half.csv", index=False)
    held = ["data.split.by=source", "data.split.held_out=[ink]", "use_val=true", "epochs=1"]
    assert main(words(images, tmp_path / "run", f"data.manifest={tmp_path / 'half.csv'}", *held)) == 0
    seen = set(read_csv(tmp_path / "run" / "images.csv")["path"])
    assert seen == set(table.loc[table["source"] != "ink", "path"])
    printed = "left out because unlabelled images join them to images of another side: 1 image"
    assert printed in capsys.readouterr().err


def test_evaluation_images_are_held_out(simclr: Path, images: Path, tmp_path: Path) -> None:
    whole = read_csv(images / "all.csv").set_index("path")
    seen = read_csv(simclr / "images.csv")
    said = record(simclr)
    assert said["images"] == {"learned_from": 96, "kept_out": {"test": 48, "val": 24, "calibration": 24, "blind": 0}}
    (tmp_path / "ood").mkdir()
    Image.open(images / seen["path"].iat[0]).convert("RGB").save(tmp_path / "ood" / "copy.jpg", quality=85)
    mates = (whole["group"] == whole.at[seen["path"].iat[0], "group"]).sum()
    out = tmp_path / "run"
    assert main(words(images, out, f"data.ood={{others: {tmp_path / 'ood'}}}", "epochs=1")) == 0
    assert record(out)["images"]["kept_out"]["others"] == mates
    assert seen["path"].iat[0] not in set(read_csv(out / "images.csv")["path"])


def test_val_is_learned_from_where_that_is_asked_for_and_train_says_so(with_val: tuple[Path, Path]) -> None:
    before, run = with_val
    assert record(before)["images"] == {"learned_from": 144, "kept_out": {"test": 48}}
    told = (run.parent / "said").read_text()
    assert "warning: 48 of 48 val images" in told
    assert "parameters trained (conv1.0.weight to fc.bias), 1 epoch, lr" in told


def test_several_are_made_by_a_multirun(images: Path, tmp_path: Path) -> None:
    assert main([*words(images, tmp_path / "many", "seed=1,2", "epochs=1"), "-m"]) == 0
    runs = [tmp_path / "many" / name for name in ("seed1", "seed2")]
    assert [record(run)["status"] for run in runs] == ["finished"] * 2
    assert not same(*runs)


def test_a_training_begins_with_the_weights_and_says_so(
    simclr: Path, train: Callable[..., Path], tmp_path: Path
) -> None:
    file = simclr / "backbone.safetensors"
    run = train(tmp_path / "run", "model.backbone=test_resnet", f"model.weights={file}", "mode=frozen")
    init, card = record(run)["init"], read_weights(file).card
    assert card is not None
    assert (init["method"], init["sha256"], init["images"]) == ("simclr", record(simclr)["weights_sha256"], 96)
    assert record(run)["split"]["fingerprint"] == record(simclr)["split"]["fingerprint"] == card.split_fingerprint
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["avatar_bench"]["preprocessing"]["mean"] == card.preprocessing["mean"]
    learned = {name.removeprefix("net."): value for name, value in best["state_dict"].items()}
    assert all(torch.equal(learned[name], value) for name, value in weights(simclr).items())
    assert main(["evaluate", f"ckpt={run}", "split=blind", "data.workers=0"]) == 0
    (run / "pretraining.csv").unlink()
    assert main(["evaluate", f"ckpt={run}", "split=blind", "data.workers=0", "again=true"]) == 4


@pytest.mark.parametrize("reader", ["read_safetensors", "read_state"])
def test_weights_that_change_while_they_are_read_are_refused(
    reader: str, simclr: Path, train: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    file = tmp_path / ("x.safetensors" if reader == "read_safetensors" else "x.pth")
    if file.suffix == ".pth":
        torch.save(timm.create_model("test_resnet").state_dict(), file)
    else:
        shutil.copy(simclr / "backbone.safetensors", file)
        shutil.copy(simclr / "images.csv", tmp_path)
    monkeypatch.setattr(pretrained_backbone, reader, then_touched(getattr(weight_formats, reader)))
    train(tmp_path / "run", "model.backbone=test_resnet", f"model.weights={file}", code=4)
    assert f"{file} changed while it was read." in capsys.readouterr().err


def test_a_pretraining_that_diverges_names_the_images_of_the_batch(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(images, tmp_path / "run", "lr=1e30", "optimizer=sgd", "epochs=3")) == 6
    err = capsys.readouterr().err.splitlines()[-3:]
    assert re.fullmatch(r"Images of that batch: all/.* and 28 more\.", err[1])
    assert record(tmp_path / "run")["status"] == "diverged"


def test_a_training_whose_test_images_were_seen_is_refused(
    leaky: Path, train: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = ["model.backbone=test_resnet", f"model.weights={leaky / 'backbone.safetensors'}"]
    train(tmp_path / "refused", *begun, code=3)
    assert "48 of 48 test images" in capsys.readouterr().err
    run = train(tmp_path / "allowed", *begun, "allow=[pretraining]")
    assert record(run)["allow"] == ["pretraining"]
    assert main(["evaluate", f"ckpt={run}", "data.workers=0"]) == 3
    assert "with the pretraining data by image" in capsys.readouterr().err
    assert main(["evaluate", f"ckpt={run}", "data.workers=0", "allow=[overlap,near_duplicates]"]) == 0
    assert "blind_test: 48 of 48 images overlap with the pretraining data" in capsys.readouterr().err
    onward = train(tmp_path / "onward", "model.backbone=test_resnet", f"init_from={run}")
    assert main(["evaluate", f"ckpt={onward}", "data.workers=0"]) == 3


def test_what_a_pretraining_began_with_is_remembered(
    leaky: Path, images: Path, train: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"model.weights={leaky / 'backbone.safetensors'}", "epochs=1"]
    assert main(words(images, tmp_path / "second", *given)) == 0
    assert "warning: 48 of 48 test images" in capsys.readouterr().err
    seen = read_csv(tmp_path / "second" / "images.csv")
    assert seen["split"].value_counts().to_dict() == {"train": 96, "earlier": 48}
    card = read_weights(tmp_path / "second" / "backbone.safetensors").card
    assert card is not None
    step = {"method": "simclr", "sha256": record(leaky)["weights_sha256"], "images": 144}
    assert (card.images, card.ancestors) == (144, [step])
    assert record(tmp_path / "second")["init"]["ancestors"] == [step]
    begun = ["model.backbone=test_resnet", f"model.weights={tmp_path / 'second' / 'backbone.safetensors'}"]
    train(tmp_path / "refused", *begun, code=3)
    assert "48 of 48 test images" in capsys.readouterr().err
    said = record(tmp_path / "second")  # as one that was cut short
    (tmp_path / "second" / "run.json").write_text(json.dumps(said | {"status": "interrupted"}))
    assert main(["pretrain", f"resume={tmp_path / 'second'}"]) == 0
    assert record(tmp_path / "second")["images_sha256"] == said["images_sha256"]


def test_images_of_another_folder_that_a_pretraining_began_with_are_matched(
    images: Path, train: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "first").mkdir()
    for number, row in enumerate(read_csv(images / "blind.csv").itertuples()):
        Image.open(images / row.path).convert("RGB").save(tmp_path / "first" / f"{number}.jpg", quality=85)
    folder = ["data=folder", f"data.root={tmp_path / 'first'}", "epochs=1"]
    line = [word for word in words(images, tmp_path / "a", *folder) if not word.startswith("data.manifest")]
    assert main(line) == 0
    given = [f"model.weights={tmp_path / 'a' / 'backbone.safetensors'}", "epochs=1"]
    assert main(words(images, tmp_path / "b", *given)) == 0
    earlier = read_csv(tmp_path / "b" / "images.csv").query("split == 'earlier'")["path"]
    assert sorted(earlier) == sorted(str(file) for file in (tmp_path / "first").iterdir())
    file = tmp_path / "b" / "backbone.safetensors"
    run = train(tmp_path / "run", "model.backbone=test_resnet", f"model.weights={file}")
    assert main(["evaluate", f"ckpt={run}", "split=blind", "data.workers=0"]) == 3
    assert "are near-duplicates of pretraining images" in capsys.readouterr().err
    (tmp_path / "a" / "images.csv").unlink()
    assert main(words(images, tmp_path / "c", *given)) == 3
    assert "is missing or changed" in capsys.readouterr().err


def test_an_exported_network_begins_a_pretraining_of_its_own_split_alone(
    images: Path, tiny_run: Path, train: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "net.safetensors"
    assert main(["export", f"ckpt={tiny_run}", f"out={file}"]) == 0
    given = [f"model.weights={file}", "model.backbone=test_resnet.r160_in1k", "epochs=1"]
    assert main(words(images, tmp_path / "same", *given)) == 0
    assert main(words(images, tmp_path / "other", *given, "data.split.seed=1")) == 3
    err = capsys.readouterr().err
    assert "was trained with labels on data other than" in err
    assert {"data", "data.split", "allow"} <= options_in(err.splitlines()[-3:]) <= OPTIONS
    best = f"model.weights={tiny_run / 'checkpoints' / 'best.ckpt'}"
    assert main(words(images, tmp_path / "run's", best, *given[1:])) == 4
    err = capsys.readouterr().err
    assert "is a checkpoint of a run" in err
    assert options_in(err.splitlines()[-2:]) == set()
    assert main(words(images, tmp_path / "allowed", *given, "data.split.seed=1", "allow=[pretraining]")) == 0
    train(tmp_path / "run", f"model.weights={tmp_path / 'same' / 'backbone.safetensors'}")
    capsys.readouterr()
    for name in ("same", "allowed"):
        begun = f"model.weights={tmp_path / name / 'backbone.safetensors'}"
        train(tmp_path / f"after {name}", begun, "data.split.seed=1", code=3)
        assert "the test images may be among its training data" in capsys.readouterr().err


def test_val_used_in_pretraining_is_evaluated_as_the_runs_own_set_only(
    with_val: tuple[Path, Path], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(with_val[1], tmp_path / "run"))
    capsys.readouterr()
    assert main(["evaluate", f"ckpt={run}", "split=val", "data.workers=0"]) == 0
    printed = "24 of 24 images overlap with the pretraining data (image, copy or group): metrics may be optimistic."
    assert f"/run: blind_test: {printed}" in capsys.readouterr().err
    said = json.loads((run / "evaluation" / "val" / "blind_test" / "metrics.json").read_text(encoding="utf-8"))
    assert {"code": "overlap_with_pretraining", "n": 24, "all": 24} in said["warnings"]
    assert main(["evaluate", f"ckpt={run}", "data.workers=0"]) == 0
    assert "overlap with the pretraining data" not in capsys.readouterr().err
    split = read_csv(run / "split.csv")
    for row in split[split["split"] == "val"].itertuples():
        file = tmp_path / "val" / row.label / Path(row.path).name
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(images / row.path, file)
    assert main(["evaluate", f"ckpt={run}", "data=folder", f"data.root={tmp_path / 'val'}", "data.workers=0"]) == 3
    assert "with the pretraining data by image" in capsys.readouterr().err


def test_an_ensemble_says_what_the_pretraining_of_a_member_had_seen(
    with_val: tuple[Path, Path], tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(with_val[1], tmp_path / "run"))
    both, blind = f"ckpt=[{tiny_run},{run}]", ["block=ensemble", "split=blind", "data.workers=0"]
    assert main(["evaluate", both, *blind, f"out={tmp_path / 'evaluated'}"]) == 0
    assert "overlap with the pretraining data" not in capsys.readouterr().err
    copy = shutil.copytree(run, tmp_path / "copy", ignore=shutil.ignore_patterns("evaluation", "predictions"))
    printed = "24 of 24 images overlap with the pretraining data (image, copy or group): metrics may be optimistic."
    for runs, who, name in (([run, copy], "", "one"), ([tiny_run, run], "test_resnet full from simclr: ", "many")):
        line = ["evaluate", f"ckpt=[{','.join(map(str, runs))}]", "block=significance", "split=val"]
        assert main([*line, "data.workers=0", f"out={tmp_path / name}"]) == 0
        said = [line for line in capsys.readouterr().err.splitlines() if "overlap with the pretraining data" in line]
        assert said == [f"warning: {tmp_path / name}: significance: {who}{printed}"]
    vote = next(tmp_path.rglob("soft_vote"))
    assert main(["evaluate", f"ckpt={vote}", "split=val", "data.workers=0"]) == 0
    assert "blind_test: 24 of 24 images overlap with" in capsys.readouterr().err


def test_figures_say_how_many_images_of_the_pretraining_are_gone(
    images: Path, train: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = Path(shutil.copytree(images / "blind", tmp_path / "seen"))
    given = ["data=folder", f"data.root={seen}", "epochs=1", "allow=[test_images]"]
    line = [word for word in words(images, tmp_path / "pre", *given) if not word.startswith("data.manifest")]
    assert main(line) == 0
    file = tmp_path / "pre" / "backbone.safetensors"
    for count, lang, printed in (
        (1, "ru", "Отсутствует 1 изображение предобучения: его почти-дубликаты не ищутся"),
        (33, "en", "blind_test: 33 pretraining images are missing: their near-duplicates are not searched for"),
    ):
        for path in read_csv(tmp_path / "pre" / "images.csv")["path"][:count]:
            (seen / path).unlink(missing_ok=True)
        capsys.readouterr()
        run = train(tmp_path / lang, "model.backbone=test_resnet", f"model.weights={file}")
        assert f"warning: {count} of 33 pretraining images of {file} " in capsys.readouterr().err
        assert main(["evaluate", f"ckpt={run}", "data.workers=0", f"lang={lang}"]) == 0
        assert printed in capsys.readouterr().err
        said = json.loads((run / "evaluation" / "test" / "blind_test" / "metrics.json").read_text(encoding="utf-8"))
        assert {"code": "pretraining_images_missing", "n": count} in said["warnings"]


def test_weights_without_the_list_of_what_they_have_seen_are_refused(
    simclr: Path, train: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes((simclr / "backbone.safetensors").read_bytes())
    train(tmp_path / "run", "model.backbone=test_resnet", f"model.weights={alone}", code=3)
    assert "images.csv" in capsys.readouterr().err


def test_weights_of_another_network_and_damaged_ones_are_refused(
    simclr: Path, train: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = simclr / "backbone.safetensors"
    train(tmp_path / "other", "model.backbone=test_efficientnet", f"model.weights={file}", code=2)
    assert "contains weights of test_resnet, not of test_efficientnet" in capsys.readouterr().err
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    (tmp_path / "bad.safetensors").write_bytes(content)
    train(tmp_path / "bad", "model.backbone=test_resnet", f"model.weights={tmp_path / 'bad.safetensors'}", code=4)
    assert "its contents do not match its SHA-256" in capsys.readouterr().err
    last = simclr / "checkpoints" / "last.ckpt"
    train(tmp_path / "last", "model.backbone=test_resnet", f"model.weights={last}", code=4)
    assert "is a checkpoint for resuming a pretraining (resume=)" in capsys.readouterr().err


def test_a_training_of_other_options_than_the_pretraining_is_refused(
    images: Path, train: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vit = ["model.backbone=test_vit", "model.options={img_size: 32, num_heads: 4}"]
    assert main(words(images, tmp_path / "pre", *vit, "epochs=1")) == 0
    begun = ["model.backbone=test_vit", f"model.weights={tmp_path / 'pre' / 'backbone.safetensors'}"]
    for name, options in {"heads": "{}", "depth": "{num_heads: 4, depth: 1}"}.items():
        train(tmp_path / name, *begun, f"model.options={options}", code=2)
        assert "Use the same: 'model.options={num_heads: 4}'" in capsys.readouterr().err
    train(tmp_path / "same", *begun, "model.options={num_heads: 4, drop_path_rate: 0.1}")


def test_what_ctrl_c_cuts_short_goes_on_to_the_same_weights(
    images: Path, tmp_path: Path, fork: Callable[..., Any]
) -> None:
    given = ["method=dino", *METHODS["dino"], "epochs=5", "callbacks.save_minutes=0", "data.batch_size=16"]
    child = fork(*words(images, tmp_path / "cut", *given))
    child.until(lambda: len(child_rows(tmp_path / "cut")) > 2)
    child.send(signal.SIGINT)
    assert child.end() == 130, child.said
    assert record(tmp_path / "cut")["status"] == "interrupted"
    assert main(["pretrain", f"resume={tmp_path / 'cut'}"]) == 0
    assert main(words(images, tmp_path / "whole", *given)) == 0
    assert same(tmp_path / "cut", tmp_path / "whole")
    for name in ("backbone.safetensors", "metrics.csv"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def child_rows(run: Path) -> list[str]:
    file = run / "metrics.csv"
    return file.read_text().splitlines() if file.exists() else []


@pytest.mark.parametrize(
    ("more", "code", "told"),
    [
        (["method=mae"], 2, "does not divide images into patches"),
        (["method.mask_ratio=0.5"], 2, "method.mask_ratio=0.5 requires method=mae, but method.name is simclr"),
        (["mode=frozen"], 2, "pretrain has no modes"),
        (["trainer.devices=2"], 2, "one device"),
        (["optimizer.rho=0.1"], 2, "optimizer.rho=0.1: an option of sam, which pretrain does not support"),
        (["schedule.warmup_epochs=100", "epochs=100"], 2, "expected fewer than the 100 epochs"),
        (["data.split.by=source", "data.fold=1"], 2, "or set data.split.by=group"),
        (["allow=[overlap]"], 2, "near_duplicates or test_images"),
        (["data.blind=nowhere"], 3, "data.blind: nowhere does not exist"),
    ],
)
def test_a_mistake_is_told_in_three_lines(
    more: list[str], code: int, told: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(images, tmp_path / "run", *more)) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("training on ")]
    assert told in "\n".join(lines)
    assert len([line for line in lines if not line.startswith("  accelerator")]) <= 3
    assert options_in(lines) <= OPTIONS | {word.partition("=")[0] for word in more}


def test_a_missing_package_is_named_with_its_extra(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lightly", None)
    assert main(words(images, tmp_path / "run")) == 2
    assert "pip install 'avatar-bench[pretrain]'" in capsys.readouterr().err


def test_a_folder_that_holds_a_run_is_left(
    simclr: Path, images: Path, tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(images, simclr)) == 2
    assert f"avatar-bench pretrain resume={simclr}" in capsys.readouterr().err
    assert main(["pretrain", f"resume={simclr}"]) == 0
    assert main(["pretrain", f"resume={tiny_run}"]) == 4
    assert main(["train", f"resume={simclr}"]) == 4
    assert main(["evaluate", f"ckpt={simclr}"]) == 4
    assert "model.weights=" in capsys.readouterr().err
