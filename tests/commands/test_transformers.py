"""Transformers of conf/model, from a step of training to its maps; and every block and runtime on one of them."""

import shutil

import numpy as np
import pandas as pd
import pytest
import yaml

from avatar_bench.cli.app import main
from avatar_bench.config.catalogue import find_choices
from avatar_bench.models.classifier import Classifier
from tests.builders.commands import merge_words, read_record, read_result
from tests.commands.test_all_blocks import QUICK, asking

LARGE = [pytest.param(name, marks=pytest.mark.slow) for name in ("clip_vit_b32", "mobilevit", "swin_tiny")]
CUTS = {("vit", "eva02", "deit"): "depth=2", ("swin", "convnext"): "depths=[1,1,1,1]"}
GAINS = ("deletion_gain_rollout", "insertion_gain_rollout")
BLOCKS = ["block=[blind_test,gradcam]", *(word for word in QUICK if "blind_test" in word or "gradcam" in word)]
NARROW = ("+model.options.embed_dim=192", "+model.options.num_heads=3")
DEIT = ("deit_tiny", "+model.options.depth=2")


@pytest.fixture(scope="session")
def train_model(small):
    """Return a function that trains a model without weights, cut to two blocks, or one in each stage."""

    def train(model, *words, code=0):
        recipe = yaml.safe_load(find_choices("model")[model].read_text(encoding="utf-8"))["model"]
        side = 56 if "patch14" in recipe["backbone"] else 64
        kept = [word for word in small if not word.startswith("model")]
        cut = [f"+model.options.{size}" for names, size in CUTS.items() if recipe["backbone"].startswith(names)]
        cut = [] if any("model.options.depth" in word for word in words) else cut
        kept = merge_words(kept, "model.weights=none", f"data.image_size={side}", *cut)
        assert main(["train", f"model={model}", *merge_words(kept, *words)]) == code

    return train


@pytest.mark.parametrize("model", ["dinov2_small", *LARGE])  # each of its own kind
def test_a_transformer_trains_a_step_is_loaded_and_evaluated_with_its_maps(model, train_model, tmp_path):
    run, words = tmp_path / "run", ["data.limit=48", "trainer.limit_batches=1", "optimizer.layer_decay=.8"]
    train_model(model, *words, f"out={run}")
    net = Classifier.load(run / "checkpoints" / "best.ckpt").net
    assert main(["evaluate", f"ckpt={run}", "data.workers=0", f"out={tmp_path}", *BLOCKS]) == 0
    assert read_result(tmp_path, "test")["metrics"]["accuracy"]["value"] is not None
    maps = read_result(tmp_path, "test", "gradcam")
    assert min(maps["provenance"]["map_size"]) >= 2
    reads_token = getattr(net, "global_pool", None) == "token"
    assert [name in maps["metrics"] for name in GAINS] == [reads_token] * 2
    shutil.rmtree(run)  # a hundred megabytes of some


@pytest.mark.slow
@pytest.mark.parametrize("model", ["dinov3_small", "siglip2_base"])
def test_a_foundation_model_passes_every_command(model, train_model, images, tmp_path, command):
    pytest.importorskip("onnxruntime")
    run, words = tmp_path / "frozen", ["data.limit=48", "trainer=debug", "trainer.threads=1", *NARROW]
    train_model(model, *words, f"out={run}")  # its yaml trains the classifier alone
    assert read_record(run)["mode"] == "frozen"
    train_model(model, *words, "mode=full", "trainer.limit_batches=1", f"out={tmp_path / 'full'}")
    command("evaluate", f"ckpt={run}", "data.workers=0", f"out={tmp_path}", *BLOCKS)
    assert min(read_result(tmp_path, "test", "gradcam")["provenance"]["map_size"]) >= 2
    command("export", f"ckpt={run}", f"out={tmp_path / 'net.onnx'}")  # compares the outputs with torch's
    files = sorted((images / "blind").rglob("*.png"))[:4]
    (tmp_path / "few.txt").write_text("\n".join(map(str, files)), encoding="utf-8")
    words = [f"input=@{tmp_path / 'few.txt'}", f"output={tmp_path / 'few.csv'}"]
    command("predict", f"ckpt={run}", *words, "workers=0", "runtime=torch", "precision=32")
    assert pd.read_csv(tmp_path / "few.csv")["status"].tolist() == ["ok"] * 4
    shutil.rmtree(tmp_path)  # a hundred megabytes of some


def test_a_size_that_does_not_fit_ends_in_two_lines_that_name_near_ones(train_model, tmp_path, capsys):
    train_model("dinov2_small", "data.image_size=100", f"out={tmp_path / 'run'}", code=2)
    err = capsys.readouterr().err
    assert "data.image_size=100" in err
    assert "98, 112, 518" in err
    assert "Traceback" not in err


@pytest.fixture(scope="module")
def deit(train_model, tmp_path_factory):
    """A run of DeiT-Ti, cut to two blocks."""
    run = tmp_path_factory.mktemp("deit") / "run"
    train_model(*DEIT, f"out={run}")
    return run


def test_a_run_of_another_image_size_is_no_beginning(deit, train_model, tmp_path, capsys):
    train_model(*DEIT, f"init_from={deit}", "data.image_size=96", f"out={tmp_path / 'run'}", code=2)
    assert "data.image_size=64" in capsys.readouterr().err


@pytest.mark.slow
def test_blocks_that_read_the_network_evaluate_a_vit(deit, tmp_path):
    words = ["evaluate", f"ckpt={deit}", f"out={tmp_path}", "data.workers=0", *QUICK]
    assert main(asking(["gradcam", "efficiency", "architecture", "clusters"], words)) == 0
    assert len(list((tmp_path / "evaluation" / "test").glob("*/metrics.json"))) == 4
    metrics = read_result(tmp_path, "test", "gradcam")["metrics"]
    for name in ("deletion_rollout", "insertion_rollout", *GAINS):
        assert metrics[name]["low"] <= metrics[name]["value"] <= metrics[name]["high"]
    folder = tmp_path / "evaluation" / "test" / "gradcam"
    images = pd.read_csv(folder / "images.csv").query("drawn")
    gain = images["deletion_random"] - images["deletion_rollout"]
    np.testing.assert_allclose(images["deletion_gain_rollout"], gain, atol=1e-6)
    with np.load(folder / "maps.npz") as maps:
        assert maps["rollout"].shape == maps["predicted"].shape


@pytest.mark.slow
def test_an_exported_vit_predicts_alike_and_begins_a_training_of_another_size(
    deit, images, train_model, tmp_path, command
):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    tables = []
    for name in ("torch", "onnx", "openvino"):
        file = tmp_path / f"{name}.csv"
        words = [f"ckpt={deit}", f"input={images / 'blind'}", f"output={file}", "workers=0", "precision=32"]
        command("predict", *words, f"runtime={name}")
        tables.append(pd.read_csv(file).filter(like="prob_").to_numpy())
    for other in tables[1:]:
        np.testing.assert_allclose(other, tables[0], atol=1e-4)
    file = tmp_path / "vit.safetensors"
    command("export", f"ckpt={deit}", f"out={file}")
    words = ["trainer=debug", f"out={tmp_path / 'run'}", "data.image_size=96", f"model.weights={file}"]
    train_model(*DEIT, *words)
