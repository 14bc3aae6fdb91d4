"""Transformers of conf/model, from a step of training to its maps; and every block and runtime on one of them."""

import json
import shutil
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from avatar_bench.cli.app import main
from avatar_bench.config.catalogue import find_choices
from avatar_bench.models.classifier import Classifier
from tests.commands.test_all_blocks import QUICK, asking

MODELS = ("clip_vit_b32", "dinov2_small", "mobilevit", "swin_tiny")  # each of its own kind
CUTS = {("vit", "eva02", "deit"): "depth=2", ("swin", "convnext"): "depths=[1,1,1,1]"}
GAINS = ("deletion_gain_rollout", "insertion_gain_rollout")


def words_for(model, small, *more):
    """Return the options of a small training of a model without weights, cut to two blocks, or one in each stage."""
    recipe = yaml.safe_load(find_choices("model")[model].read_text(encoding="utf-8"))["model"]
    side = 56 if "patch14" in recipe["backbone"] else 64
    kept = [word for word in small if not word.startswith(("model", "data.image_size"))]
    cut = [f"+model.options.{size}" for names, size in CUTS.items() if recipe["backbone"].startswith(names)]
    cut = [] if any("model.options.depth" in word for word in more) else cut
    return ["train", *kept, f"model={model}", "model.weights=none", f"data.image_size={side}", *cut, *more]


def metrics(folder):
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())["metrics"]
    return found


@pytest.mark.parametrize("model", MODELS)
def test_a_transformer_trains_a_step_is_loaded_and_evaluated_with_its_maps(model, small, tmp_path):
    run = tmp_path / "run"
    more = ["data.limit=48", "trainer.limit_batches=1", "logger=none", "optimizer.layer_decay=.8"]
    assert main(words_for(model, small, *more, f"out={run}")) == 0
    net: Any = Classifier.load(run / "checkpoints" / "best.ckpt").net
    words = ["block=[blind_test,gradcam]", *(word for word in QUICK if "blind_test" in word or "gradcam" in word)]
    assert main(["evaluate", f"ckpt={run}", "data.workers=0", f"out={tmp_path}", *words]) == 0
    assert metrics(tmp_path / "evaluation" / "test" / "blind_test")["accuracy"]["value"] is not None
    said = json.loads((tmp_path / "evaluation" / "test" / "gradcam" / "metrics.json").read_text())
    assert min(said["provenance"]["map_size"]) >= 2
    reads_token = getattr(net, "global_pool", None) == "token"
    assert [name in said["metrics"] for name in GAINS] == [reads_token] * 2
    shutil.rmtree(run)  # a hundred megabytes of some


NARROW = ["+model.options.embed_dim=192", "+model.options.num_heads=3"]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["dinov3_small", "siglip2_base"])
def test_a_foundation_model_passes_every_command(model, small, images, tmp_path):
    pytest.importorskip("onnxruntime")
    run, more = tmp_path / "frozen", ["data.limit=48", "trainer=debug", "trainer.threads=1", *NARROW]
    assert main(words_for(model, small, *more, f"out={run}")) == 0  # its yaml trains the classifier alone
    assert json.loads((run / "run.json").read_text())["mode"] == "frozen"
    assert main(words_for(model, small, *more, "mode=full", "trainer.limit_batches=1", f"out={tmp_path / 'full'}")) == 0
    words = ["block=[blind_test,gradcam]", *(word for word in QUICK if "blind_test" in word or "gradcam" in word)]
    assert main(["evaluate", f"ckpt={run}", "data.workers=0", f"out={tmp_path}", *words]) == 0
    said = json.loads((tmp_path / "evaluation" / "test" / "gradcam" / "metrics.json").read_text())
    assert min(said["provenance"]["map_size"]) >= 2
    assert main(["export", f"ckpt={run}", f"out={tmp_path / 'net.onnx'}"]) == 0  # compares the outputs with torch's
    paths = tmp_path / "few.txt"
    paths.write_text("\n".join(map(str, sorted((images / "blind").rglob("*.png"))[:4])), encoding="utf-8")
    words = [f"input=@{paths}", f"output={tmp_path / 'few.csv'}", "workers=0", "runtime=torch", "precision=32"]
    assert main(["predict", f"ckpt={run}", *words]) == 0
    assert pd.read_csv(tmp_path / "few.csv")["status"].tolist() == ["ok"] * 4
    shutil.rmtree(tmp_path)  # a hundred megabytes of some


def test_a_size_that_does_not_fit_ends_in_two_lines_that_name_near_ones(small, tmp_path, capsys):
    words = [word for word in words_for("dinov2_small", small) if not word.startswith("data.image_size")]
    assert main([*words, "data.image_size=100", f"out={tmp_path / 'run'}"]) == 2
    err = capsys.readouterr().err
    assert "data.image_size=100" in err
    assert "98, 112, 518" in err
    assert "Traceback" not in err


@pytest.fixture(scope="module")
def deit(small, tmp_path_factory):
    """A run of DeiT-Ti, cut to two blocks."""
    run = tmp_path_factory.mktemp("deit") / "run"
    assert main(words_for("deit_tiny", small, "+model.options.depth=2", f"out={run}")) == 0
    return run


def test_a_run_of_another_image_size_is_no_beginning(deit, small, tmp_path, capsys):
    words = words_for("deit_tiny", small, "+model.options.depth=2", f"init_from={deit}", f"out={tmp_path / 'run'}")
    assert main([word.replace("image_size=64", "image_size=96") for word in words]) == 2
    assert "data.image_size=64" in capsys.readouterr().err


@pytest.mark.slow
def test_blocks_that_read_the_network_evaluate_a_vit(deit, tmp_path):
    words = ["evaluate", f"ckpt={deit}", f"out={tmp_path}", "data.workers=0", *QUICK]
    assert main(asking(["gradcam", "efficiency", "architecture", "clusters"], words)) == 0
    assert len(list((tmp_path / "evaluation" / "test").glob("*/metrics.json"))) == 4
    for name in ("deletion_rollout", "insertion_rollout", *GAINS):
        metric = metrics(tmp_path / "evaluation" / "test" / "gradcam")[name]
        assert metric["low"] <= metric["value"] <= metric["high"]
    images = pd.read_csv(tmp_path / "evaluation" / "test" / "gradcam" / "images.csv").query("drawn")
    gain = images["deletion_random"] - images["deletion_rollout"]
    np.testing.assert_allclose(images["deletion_gain_rollout"], gain, atol=1e-6)
    with np.load(tmp_path / "evaluation" / "test" / "gradcam" / "maps.npz") as maps:
        assert maps["rollout"].shape == maps["predicted"].shape


@pytest.mark.slow
def test_an_exported_vit_makes_the_same_predictions(deit, images, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    collected = []
    for name in ("torch", "onnx", "openvino"):
        file = tmp_path / f"{name}.csv"
        words = [f"ckpt={deit}", f"input={images / 'blind'}", f"output={file}", "workers=0", "precision=32"]
        assert main(["predict", *words, f"runtime={name}"]) == 0
        collected.append(pd.read_csv(file).filter(like="prob_").to_numpy())
    for other in collected[1:]:
        np.testing.assert_allclose(other, collected[0], atol=1e-4)


@pytest.mark.slow
def test_weights_of_an_exported_vit_are_read_at_another_image_size(deit, small, tmp_path):
    file = tmp_path / "vit.safetensors"
    assert main(["export", f"ckpt={deit}", f"out={file}"]) == 0
    words = words_for("deit_tiny", small, "+model.options.depth=2", "trainer=debug", f"out={tmp_path / 'run'}")
    words = [word.replace("image_size=64", "image_size=96") for word in words if "model.weights" not in word]
    assert main([*words, f"model.weights={file}"]) == 0
