"""pretrain: backbones from images without their labels, and trainings that begin with them."""

import os
import re
import shutil
import signal
import sys
from contextlib import redirect_stderr
from dataclasses import asdict
from pathlib import Path

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
from avatar_bench.errors import ConfigError
from avatar_bench.files.table_io import read_csv
from avatar_bench.models import pretrained_backbone, weight_formats
from avatar_bench.models.pretrained_backbone import read_weights, refuse_other_options
from avatar_bench.plugins.pretrain.command.pretrain import PretrainConfig
from tests.builders.commands import change_record, copy_run, read_record, read_result

RESNET = "model.backbone=test_resnet"
METHODS = {  # beside simclr, of the fixtures
    "dino": [RESNET, "method.local_views=1"],
    "mae": ["model.backbone=test_vit", "model.options={img_size: 32}", "method.decoder_depth=1"],
}


def words(images, out, *more):
    """Return a command that pretrains on two batches, with further or other options."""
    replaced = {word.partition("=")[0] for word in more} | ({"data.manifest"} if "data=folder" in more else set())
    small = [
        *("model=timm", RESNET, "data=manifest", f"data.manifest={images / 'all.csv'}"),
        *("data.image_size=32", "data.batch_size=16", "data.workers=0", "data.split.folds=4", "data.cache_gb=0"),
        *("trainer=cpu", "trainer.threads=1", "trainer.limit_batches=2", "callbacks.progress=false", "logger=none"),
        *("epochs=1", "probe.every=1"),
    ]
    return ["pretrain", *(word for word in small if word.partition("=")[0] not in replaced), f"out={out}", *more]


@pytest.fixture(scope="module")
def pretrain(images):
    """Return a function that pretrains in a folder, with further or other options."""

    def run(out, *more, code=0):
        assert main(words(images, out, *more)) == code
        return out

    return run


def evaluate(run, *more, code=0):
    assert main(["evaluate", f"ckpt={run}", "block.blind_test.resamples=100", "data.workers=0", *more]) == code


def from_weights(folder):
    """Return the options of a training that begins with the weights of a pretraining."""
    return RESNET, f"model.weights={folder / 'backbone.safetensors'}", "trainer.limit_batches=1"


def then_touched(read):
    """Return a function that reads a file, which is as if written anew by then."""

    def reading(file):
        content = read(file)
        os.utime(file, ns=(0, 0))
        return content

    return reading


def options_in(lines):
    """Return the options that lines name, those of another command left out."""
    mine = re.sub(r"avatar-bench (?!pretrain)\w+( \S+)*", "", "\n".join(lines))
    return set(re.findall(r"\b([a-z_]+(?:\.[a-z_]+)*)=", mine))


def list_keys(prefix, options):
    """Return the names of all options, those of groups too."""
    keys = {prefix} if prefix else set()
    if isinstance(options, dict):
        keys = keys.union(*(list_keys(f"{prefix}.{name}".lstrip("."), options[name]) for name in options))
    return keys


OPTIONS = list_keys("", asdict(PretrainConfig())) | {"model.options", "model.backbone"}


def weights(run):
    return load_file(run / "backbone.safetensors")


def same(a, b):
    ours, others = weights(a), weights(b)
    return ours.keys() == others.keys() and all(torch.equal(ours[name], others[name]) for name in ours)


def read_images(images):
    """Return the manifest of all images with absolute paths."""
    table = read_csv(images / "all.csv")
    return table.assign(path=[str(images / path) for path in table["path"]])


@pytest.fixture(scope="module")
def simclr(pretrain, images, tmp_path_factory):
    return pretrain(tmp_path_factory.mktemp("pretrained") / "simclr", f"data.blind={images / 'blind.csv'}")


@pytest.fixture(scope="module")
def leaky(pretrain, tmp_path_factory):
    return pretrain(tmp_path_factory.mktemp("pretrained") / "leaky", "allow=[test_images]")


@pytest.fixture(scope="module")
def with_val(pretrain, train, tmp_path_factory):
    """A pretraining on train and val, and a run that begins with its weights; what it prints is in "said"."""
    folder = tmp_path_factory.mktemp("with val")
    pretrain(folder / "pre", "use_val=true")
    with (folder / "said").open("w") as said, redirect_stderr(said):
        train(folder / "run", *from_weights(folder / "pre"))
    return folder / "pre", folder / "run"


@pytest.mark.parametrize("method", METHODS)
def test_a_method_leaves_a_backbone_with_its_card_and_its_history(method, pretrain, tmp_path, capsys):
    out = pretrain(tmp_path / "run", f"method={method}", *METHODS[method], "epochs=2")
    assert "backbone.safetensors: 96 images, 2 epochs, loss" in capsys.readouterr().out
    record, rows = read_record(out), pd.read_csv(out / "metrics.csv")
    assert (record["status"], record["command"], record["method"]) == ("finished", "pretrain", method)
    assert rows["epoch"].tolist() == [0, 1, 2]
    assert rows["probe/knn_accuracy"].notna().all()
    assert rows["train/loss"].isna().tolist() == [True, False, False]
    assert record["metrics"]["probe/knn_accuracy"] == rows["probe/knn_accuracy"].iat[-1]
    assert record["before"]["probe/knn_accuracy"] == rows["probe/knn_accuracy"].iat[0]
    assert Image.open(out / "curves.png").format == "PNG"
    card = read_weights(out / "backbone.safetensors").card
    assert (card.method, card.epochs, card.seed, card.images) == (method, 2, 42, 96)
    net = timm.create_model(card.backbone, num_classes=0, **card.options)
    net.load_state_dict(weights(out))  # called as in timm


@pytest.mark.slow
def test_each_seed_of_a_multirun_gives_its_weights_with_any_number_of_workers(simclr, images, tmp_path):
    assert main([*words(images, tmp_path / "many", "seed=42,1", "data.workers=2"), "-m"]) == 0
    runs = [tmp_path / "many" / name for name in ("seed42", "seed1")]
    assert [read_record(run)["status"] for run in runs] == ["finished"] * 2
    assert [same(simclr, run) for run in runs] == [True, False]


def test_labels_are_not_read(pretrain, images, tmp_path):
    table = read_images(images)
    number = table.groupby("label").cumcount() // 2
    table["split"] = np.select([number % 4 == 0, number % 4 == 1], ["test", "val"], "train")
    shuffled = table.assign(label=table["label"].sample(frac=1, random_state=0).to_numpy())
    for name, frame in {"shuffled": shuffled, "none": table.drop(columns="label")}.items():
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
        pretrain(tmp_path / name, f"data.manifest={tmp_path / name}.csv", "data.split.folds=10")
    assert same(tmp_path / "shuffled", tmp_path / "none")
    assert "before" not in read_record(tmp_path / "none")  # no label, no probe


def test_a_folder_of_images_is_learned_from_whole(pretrain, images, tmp_path):
    (tmp_path / "plain").mkdir()
    for number, file in enumerate(sorted((images / "all").rglob("*.png"))[:20]):
        (tmp_path / "plain" / f"{number}.png").write_bytes(file.read_bytes())
    run = pretrain(tmp_path / "run", "data=folder", f"data.root={tmp_path / 'plain'}", "data.batch_size=8")
    assert read_record(run)["images"] == {"learned_from": 20, "kept_out": {}}


def test_rows_without_a_label_are_learned_from_unless_they_belong_to_what_is_kept_out(
    pretrain, images, tmp_path, capsys
):
    table = read_images(images)
    labelled = table[table["group"].str.extract(r"(\d+)$").astype(int)[0] % 2 == 0]
    labelled.to_csv(tmp_path / "labelled.csv", index=False)
    sides = split_without_leakage(read_manifest(tmp_path / "labelled.csv"), SplitPlan(folds=4), (), [])
    test, val = sides.select_split("test").frame, sides.select_split("val").frame
    Image.open(test["path"].iat[0]).convert("RGB").save(tmp_path / "copy.jpg", quality=85)
    Image.open(images / read_csv(images / "blind.csv")["path"].iat[0]).save(tmp_path / "mate.png")
    strays = pd.DataFrame({"path": ["copy.jpg", "mate.png"], "source": "", "group": ["", val["group"].iat[0]]})
    half = table.assign(label=table["label"].where(table.index.isin(labelled.index), ""))
    pd.concat([strays, half]).to_csv(tmp_path / "half.csv", index=False)
    run = pretrain(tmp_path / "run", f"data.manifest={tmp_path / 'half.csv'}")
    assert "training on 144 of 194 images of half, 96 of them without a label;" in capsys.readouterr().err
    seen = set(read_csv(run / "images.csv")["path"])
    assert seen == {*half.loc[half["label"] == "", "path"], *sides.select_split("train").frame["path"]}
    kept_out = {"test": len(test) + 1, "val": len(val) + 1}
    record = read_record(run)
    assert record["images"] == {"learned_from": 144, "kept_out": kept_out, "unlabelled": 96}
    assert record["metrics"]["probe/n"] == len(val)


def test_images_without_a_label_of_a_held_out_source_are_kept_out_with_their_copies(pretrain, images, tmp_path, capsys):
    table = read_images(images)
    free = table["group"].str.extract(r"(\d+)$").astype(int)[0] % 4 == 0
    half = table.assign(label=table["label"].where(~free, ""))
    copied = half[free & (half["source"] == "ink")].iloc[[0, -1]]
    for name, path in zip(["copy.jpg", "labelled.jpg"], copied["path"], strict=True):
        Image.open(path).convert("RGB").save(tmp_path / name, quality=85)
    known = half[(half["label"] != "") & (half["source"] != "ink")].iloc[0]
    copies = {"path": ["copy.jpg", "labelled.jpg"], "label": ["", known["label"]], "source": ["", known["source"]]}
    pd.concat([half, pd.DataFrame(copies | {"group": ""})]).to_csv(tmp_path / "half.csv", index=False)
    held = ["data.split.by=source", "data.split.held_out=[ink]", "use_val=true"]
    run = pretrain(tmp_path / "run", f"data.manifest={tmp_path / 'half.csv'}", *held)
    assert set(read_csv(run / "images.csv")["path"]) == set(table.loc[table["source"] != "ink", "path"])
    printed = "left out because unlabelled images join them to images of another side: 1 image"
    assert printed in capsys.readouterr().err


def test_evaluation_images_are_held_out(simclr, pretrain, images, tmp_path):
    whole, seen = read_csv(images / "all.csv").set_index("path"), read_csv(simclr / "images.csv")["path"]
    kept_out = {"test": 48, "val": 24, "calibration": 24, "blind": 0}
    assert read_record(simclr)["images"] == {"learned_from": 96, "kept_out": kept_out}
    (tmp_path / "ood").mkdir()
    Image.open(images / seen.iat[0]).convert("RGB").save(tmp_path / "ood" / "copy.jpg", quality=85)
    run = pretrain(tmp_path / "run", f"data.ood={{others: {tmp_path / 'ood'}}}")
    mates = (whole["group"] == whole.at[seen.iat[0], "group"]).sum()
    assert read_record(run)["images"]["kept_out"]["others"] == mates
    assert seen.iat[0] not in set(read_csv(run / "images.csv")["path"])


def test_val_is_learned_from_where_that_is_asked_for_and_train_says_so(with_val):
    before, run = with_val
    assert read_record(before)["images"] == {"learned_from": 144, "kept_out": {"test": 48}}
    said = (run.parent / "said").read_text()
    assert "warning: 48 of 48 val images" in said
    assert "parameters trained (conv1.0.weight to fc.bias), 1 epoch, lr" in said


def test_a_training_begins_with_the_weights_and_says_so(simclr, train, tmp_path):
    run = train(tmp_path / "run", *from_weights(simclr), "mode=frozen")
    record, card = read_record(run), read_weights(simclr / "backbone.safetensors").card
    init, before = record["init"], read_record(simclr)
    assert (init["method"], init["sha256"], init["images"]) == ("simclr", before["weights_sha256"], 96)
    assert record["split"]["fingerprint"] == before["split"]["fingerprint"] == card.split_fingerprint
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["avatar_bench"]["preprocessing"]["mean"] == card.preprocessing["mean"]
    learned = {name.removeprefix("net."): value for name, value in best["state_dict"].items()}
    assert all(torch.equal(learned[name], value) for name, value in weights(simclr).items())
    evaluate(run, "split=blind")
    (run / "pretraining.csv").unlink()
    evaluate(run, "split=blind", "again=true", code=4)


@pytest.mark.parametrize("reader", ["read_safetensors", "read_state"])
def test_weights_that_change_while_they_are_read_are_refused(reader, simclr, train, tmp_path, monkeypatch, capsys):
    file = tmp_path / ("x.safetensors" if reader == "read_safetensors" else "x.pth")
    if file.suffix == ".pth":
        torch.save(timm.create_model("test_resnet").state_dict(), file)
    else:
        shutil.copy(simclr / "backbone.safetensors", file)
        shutil.copy(simclr / "images.csv", tmp_path)
    monkeypatch.setattr(pretrained_backbone, reader, then_touched(getattr(weight_formats, reader)))
    train(tmp_path / "run", RESNET, f"model.weights={file}", code=4)
    assert f"{file} changed while it was read." in capsys.readouterr().err


def test_a_training_whose_test_images_were_seen_is_refused(leaky, train, tmp_path, capsys):
    train(tmp_path / "refused", *from_weights(leaky), code=3)
    assert "48 of 48 test images" in capsys.readouterr().err
    run = train(tmp_path / "allowed", *from_weights(leaky), "allow=[pretraining]")
    assert read_record(run)["allow"] == ["pretraining"]
    evaluate(run, code=3)
    assert "with the pretraining data by image" in capsys.readouterr().err
    evaluate(run, "allow=[overlap,near_duplicates]")
    assert "blind_test: 48 of 48 images overlap with the pretraining data" in capsys.readouterr().err
    evaluate(train(tmp_path / "onward", RESNET, f"init_from={run}"), code=3)


@pytest.mark.slow
def test_what_a_pretraining_began_with_is_remembered(leaky, pretrain, train, tmp_path, capsys):
    run = pretrain(tmp_path / "second", *from_weights(leaky))
    assert "warning: 48 of 48 test images" in capsys.readouterr().err
    assert read_csv(run / "images.csv")["split"].value_counts().to_dict() == {"train": 96, "earlier": 48}
    card, record = read_weights(run / "backbone.safetensors").card, read_record(run)
    step = {"method": "simclr", "sha256": read_record(leaky)["weights_sha256"], "images": 144}
    assert (card.images, card.ancestors, record["init"]["ancestors"]) == (144, [step], [step])
    train(tmp_path / "refused", *from_weights(run), code=3)
    assert "48 of 48 test images" in capsys.readouterr().err
    change_record(run, status="interrupted")  # as one that was cut short
    assert main(["pretrain", f"resume={run}"]) == 0
    assert read_record(run)["images_sha256"] == record["images_sha256"]


@pytest.mark.slow
def test_images_of_another_folder_that_a_pretraining_began_with_are_matched(pretrain, images, train, tmp_path, capsys):
    (tmp_path / "first").mkdir()
    for number, row in enumerate(read_csv(images / "blind.csv").itertuples()):
        Image.open(images / row.path).convert("RGB").save(tmp_path / "first" / f"{number}.jpg", quality=85)
    first = pretrain(tmp_path / "a", "data=folder", f"data.root={tmp_path / 'first'}")
    second = pretrain(tmp_path / "b", *from_weights(first))
    earlier = read_csv(second / "images.csv").query("split == 'earlier'")["path"]
    assert sorted(earlier) == sorted(str(file) for file in (tmp_path / "first").iterdir())
    evaluate(train(tmp_path / "run", *from_weights(second)), "split=blind", code=3)
    assert "are near-duplicates of pretraining images" in capsys.readouterr().err
    (first / "images.csv").unlink()
    pretrain(tmp_path / "c", *from_weights(first), code=3)
    assert "is missing or changed" in capsys.readouterr().err


@pytest.mark.slow
def test_an_exported_network_begins_a_pretraining_of_its_own_split_alone(pretrain, tiny_run, train, tmp_path, capsys):
    file, backbone = tmp_path / "net.safetensors", "model.backbone=test_resnet.r160_in1k"
    assert main(["export", f"ckpt={tiny_run}", f"out={file}"]) == 0
    begun = [f"model.weights={file}", backbone]
    pretrain(tmp_path / "same", *begun)
    pretrain(tmp_path / "other", *begun, "data.split.seed=1", code=3)
    err = capsys.readouterr().err
    assert "was trained with labels on data other than" in err
    assert {"data", "data.split", "allow"} <= options_in(err.splitlines()[-3:]) <= OPTIONS
    pretrain(tmp_path / "run's", f"model.weights={tiny_run / 'checkpoints' / 'best.ckpt'}", backbone, code=4)
    err = capsys.readouterr().err
    assert "is a checkpoint of a run" in err
    assert options_in(err.splitlines()[-2:]) == set()
    train(tmp_path / "run", *from_weights(tmp_path / "same")[1:])
    train(tmp_path / "other split", *from_weights(tmp_path / "same")[1:], "data.split.seed=1", code=3)
    assert "the test images may be among its training data" in capsys.readouterr().err


OVERLAP = "24 of 24 images overlap with the pretraining data (image, copy or group): metrics may be optimistic."


def test_val_used_in_pretraining_is_evaluated_as_the_runs_own_set_only(with_val, images, tmp_path, capsys):
    run = Path(shutil.copytree(with_val[1], tmp_path / "run"))
    capsys.readouterr()
    evaluate(run, "split=val")
    assert f"/run: blind_test: {OVERLAP}" in capsys.readouterr().err
    warnings = read_result(run, "val")["warnings"]
    assert {"code": "overlap_with_pretraining", "n": 24, "all": 24} in warnings
    evaluate(run)
    assert "overlap with the pretraining data" not in capsys.readouterr().err
    split = read_csv(run / "split.csv")
    for row in split[split["split"] == "val"].itertuples():
        file = tmp_path / "val" / row.label / Path(row.path).name
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(images / row.path, file)
    evaluate(run, "data=folder", f"data.root={tmp_path / 'val'}", code=3)
    assert "with the pretraining data by image" in capsys.readouterr().err


@pytest.mark.slow
def test_an_ensemble_says_what_the_pretraining_of_a_member_had_seen(with_val, tiny_run, tmp_path, capsys):
    run = Path(shutil.copytree(with_val[1], tmp_path / "run"))
    quick = [f"block.{block}.resamples=100" for block in ("ensemble", "significance")]
    both, blind = f"ckpt=[{tiny_run},{run}]", ["block=ensemble", "split=blind", "data.workers=0", quick[0]]
    assert main(["evaluate", both, *blind, f"out={tmp_path / 'evaluated'}"]) == 0
    assert "overlap with the pretraining data" not in capsys.readouterr().err
    copy = copy_run(run, tmp_path / "copy")
    for runs, who, name in (([run, copy], "", "one"), ([tiny_run, run], "test_resnet full from simclr: ", "many")):
        line = ["evaluate", f"ckpt=[{','.join(map(str, runs))}]", "block=significance", "split=val", quick[1]]
        assert main([*line, "data.workers=0", f"out={tmp_path / name}"]) == 0
        said = [line for line in capsys.readouterr().err.splitlines() if "overlap with the pretraining data" in line]
        assert said == [f"warning: {tmp_path / name}: significance: {who}{OVERLAP}"]
    evaluate(next(tmp_path.rglob("soft_vote")), "split=val")
    assert "blind_test: 24 of 24 images overlap with" in capsys.readouterr().err


@pytest.mark.slow
def test_figures_say_how_many_images_of_the_pretraining_are_gone(pretrain, images, train, tmp_path, capsys):
    seen = Path(shutil.copytree(images / "blind", tmp_path / "seen"))
    before = pretrain(tmp_path / "pre", "data=folder", f"data.root={seen}", "allow=[test_images]")
    run, paths = None, read_csv(before / "images.csv")["path"]
    for count, lang, printed in (
        (1, "ru", "Отсутствует 1 изображение предобучения: его почти-дубликаты не ищутся"),
        (33, "en", "blind_test: 33 pretraining images are missing: their near-duplicates are not searched for"),
    ):
        for path in paths[:count]:
            (seen / path).unlink(missing_ok=True)
        if run is None:
            run = train(tmp_path / "run", *from_weights(before))
            warning = f"warning: 1 of 33 pretraining images of {before / 'backbone.safetensors'} "
            assert warning in capsys.readouterr().err
        evaluate(run, f"lang={lang}", "again=true")
        assert printed in capsys.readouterr().err
        assert {"code": "pretraining_images_missing", "n": count} in read_result(run, "test")["warnings"]


def test_weights_without_their_images_of_another_network_and_damaged_ones_are_refused(simclr, train, tmp_path, capsys):
    content = (simclr / "backbone.safetensors").read_bytes()
    (tmp_path / "alone.safetensors").write_bytes(content)
    (tmp_path / "bad.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    other, last = "model.backbone=test_efficientnet", simclr / "checkpoints" / "last.ckpt"
    for backbone, file, code, message in (
        (RESNET, tmp_path / "alone.safetensors", 3, "images.csv"),
        (other, simclr / "backbone.safetensors", 2, "contains weights of test_resnet, not of test_efficientnet"),
        (RESNET, tmp_path / "bad.safetensors", 4, "its contents do not match its SHA-256"),
        (RESNET, last, 4, "is a checkpoint for resuming a pretraining (resume=)"),
    ):
        train(tmp_path / "run", backbone, f"model.weights={file}", code=code)
        assert message in capsys.readouterr().err


def test_a_training_of_other_options_than_the_pretraining_is_refused(pretrain, train, tmp_path, capsys):
    options = "model.options={img_size: 32, num_heads: 4, depth: 1}"
    before = pretrain(tmp_path / "pre", "model.backbone=test_vit", options)
    begun = ["model.backbone=test_vit", from_weights(before)[1], "model.options={depth: 1}"]
    train(tmp_path / "heads", *begun, code=2)
    assert "Use the same: 'model.options={depth: 1, num_heads: 4}'" in capsys.readouterr().err
    saved = {"img_size": 32, "num_heads": 4, "depth": 1}
    refuse_other_options("x", saved, {"num_heads": 4, "depth": 1, "drop_path_rate": 0.1})
    with pytest.raises(ConfigError, match="without qkv_bias"):
        refuse_other_options("x", saved, saved | {"depth": 2, "qkv_bias": False})


@pytest.mark.slow
def test_what_ctrl_c_cuts_short_goes_on_to_the_same_weights(pretrain, images, tmp_path, fork):
    options = ["method=dino", *METHODS["dino"], "epochs=4", "callbacks.save_minutes=0", "probe.every=4"]
    cut, whole, metrics = tmp_path / "cut", tmp_path / "whole", tmp_path / "cut" / "metrics.csv"
    child = fork(*words(images, cut, *options))
    child.until(lambda: metrics.exists() and len(metrics.read_text().splitlines()) > 2)
    child.send(signal.SIGINT)
    assert child.end() == 130, child.said
    assert read_record(cut)["status"] == "interrupted"
    assert main(["pretrain", f"resume={cut}"]) == 0
    pretrain(whole, *options)
    assert same(cut, whole)
    for name in ("backbone.safetensors", "metrics.csv"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["method.mask_ratio=0.5"], 2, "method.mask_ratio=0.5 requires method=mae, but method.name is simclr"),
        (["mode=frozen"], 2, "pretrain has no modes"),
        (["trainer.devices=2"], 2, "one device"),
        (["optimizer.rho=0.1"], 2, "optimizer.rho=0.1: an option of sam, which pretrain does not support"),
        (["schedule.warmup_epochs=100", "epochs=100"], 2, "expected fewer than the 100 epochs"),
        (["data.split.by=source", "data.fold=1"], 2, "or set data.split.by=group"),
    ],
)
def test_a_mistake_is_named_in_three_lines(more, code, message, pretrain, tmp_path, capsys):
    pretrain(tmp_path / "run", *more, code=code)
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("training on ")]
    assert message in "\n".join(lines)
    assert len([line for line in lines if not line.startswith("  accelerator")]) <= 3
    assert options_in(lines) <= OPTIONS | {word.partition("=")[0] for word in more}


def test_a_missing_package_is_named_with_its_extra(pretrain, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lightly", None)
    pretrain(tmp_path / "run", code=2)
    assert "pip install 'avatar-bench[pretrain]'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_folder_that_holds_a_run_is_left(simclr, pretrain, tiny_run, capsys):
    pretrain(simclr, code=2)
    assert f"avatar-bench pretrain resume={simclr}" in capsys.readouterr().err
    assert main(["pretrain", f"resume={simclr}"]) == 0
    assert main(["pretrain", f"resume={tiny_run}"]) == 4
    assert main(["train", f"resume={simclr}"]) == 4
    assert main(["evaluate", f"ckpt={simclr}"]) == 4
    assert "model.weights=" in capsys.readouterr().err
