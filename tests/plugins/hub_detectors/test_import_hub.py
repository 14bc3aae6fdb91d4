"""import of folders of timm and transformers, with classes, sizes and normalisations other than ours."""

from __future__ import annotations

import json
import resource
import shutil
import socket
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image

from avatar_bench.cli.app import main
from avatar_bench.data.dataset import read_manifest
from avatar_bench.runs.ensembles import open_run
from avatar_bench.runs.imported import hash_detector
from avatar_bench.runs.record import RunRecord

CLASSES = ["artificial", "painted", "photo"]
MAP = "classes={artificial: generated, painted: drawing, photo: real}"


@pytest.fixture(scope="module")
def timm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a network with random weights, as timm saves it for the hub."""
    folder = tmp_path_factory.mktemp("timm")
    torch.manual_seed(0)
    net = timm.create_model("test_resnet.r160_in1k", num_classes=3)
    stated = {"input_size": (3, 40, 40), "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "crop_pct": 0.8}
    net.pretrained_cfg = net.pretrained_cfg | stated | {"interpolation": "bilinear"}
    timm.models.save_for_hf(net, folder, {"label_names": CLASSES}, safe_serialization=True)
    return folder


@pytest.fixture(scope="module")
def transformers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a network with random weights, as transformers saves it."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=48, patch_size=8
    )
    config.id2label = dict(enumerate(CLASSES))
    config.label2id = {name: number for number, name in enumerate(CLASSES)}
    net = transformers.ViTForImageClassification(config)
    net.classifier.weight.data *= 50  # else all images have nearly the same probabilities
    net.save_pretrained(folder)
    size = {"height": 48, "width": 48}
    transformers.ViTImageProcessor(size=size, image_mean=[0.3] * 3, image_std=[0.2] * 3).save_pretrained(folder)
    return folder


def predict(folder: Path, kind: str, images: Path, out: Path) -> pd.DataFrame:
    """Import a folder, check its evaluation and return its predictions of the blind set, by path."""
    assert main(["import", f"kind={kind}", f"folder={folder}", f"out={out}", MAP]) == 0
    data = ["data=manifest", f"data.manifest={images / 'blind.csv'}", "data.workers=0"]
    assert main(["evaluate", f"ckpt={out}", "block=blind_test", *data]) == 0
    blind = read_manifest(images / "blind.csv")
    assert open_run(out).classes == ("generated", "drawing", "real")
    table = open_run(out).predict([blind.file(row) for row in range(len(blind))])
    return table.set_index("path")[["prob_generated", "prob_drawing", "prob_real"]].astype(float)


def test_a_folder_of_timm_predicts_as_timm_does(timm_folder: Path, images: Path, tmp_path: Path) -> None:
    table = predict(timm_folder, "timm", images, tmp_path / "run")
    net = timm.create_model(f"local-dir:{timm_folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(net))
    batch = torch.stack([transform(Image.open(path).convert("RGB")) for path in table.index])
    with torch.inference_mode():
        expected = net(batch).softmax(dim=1)
    np.testing.assert_allclose(table, expected, atol=1e-5)
    assert expected.std(dim=0).max() > 1e-3
    record = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert record["detector"]["parameters"] == sum(parameter.numel() for parameter in net.parameters())
    assert main(["report", f"runs={tmp_path / 'run'}"]) == 0
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert f"imported: timm, {record['detector']['parameters'] / 1e6:.3f} M parameters, training data: unknown" in page


def test_a_folder_of_transformers_predicts_as_its_pipeline(
    transformers_folder: Path, images: Path, tmp_path: Path
) -> None:
    from transformers import pipeline

    table = predict(transformers_folder, "transformers", images, tmp_path / "run")
    classify = pipeline("image-classification", model=str(transformers_folder), device="cpu")
    for path, row in table.iterrows():
        scores = {each["label"]: each["score"] for each in classify(str(path), top_k=3)}
        np.testing.assert_allclose(row, [scores[name] for name in CLASSES], atol=1e-5)
    assert table.std().max() > 1e-3


@pytest.mark.parametrize(
    ("file", "change", "code", "reason"),
    [
        ("model.safetensors", None, 3, "has no weights as .safetensors"),
        ("config.json", None, 3, "has no config.json"),
        ("config.json", {"architecture": "hf_hub:someone/net"}, 3, "timm has no network 'hf_hub:someone/net'"),
        ("config.json", {"model_args": {"checkpoint_path": "x.pth"}}, 3, "'checkpoint_path' is not allowed"),
        ("config.json", {"num_classes": 4}, 2, "has 4 outputs, but 3 class names"),
    ],
)
def test_a_folder_of_timm_that_cannot_be_used_is_refused(
    file: str,
    change: dict[str, object] | None,
    code: int,
    reason: str,
    timm_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "net"
    folder.mkdir()
    for part in ("config.json", "model.safetensors"):
        (folder / part).write_bytes((timm_folder / part).read_bytes())
    if change is None:
        (folder / file).unlink()
        (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    else:
        (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | change))
    assert main(["import", "kind=timm", f"folder={folder}", f"out={tmp_path / 'run'}"]) == code
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_folder_of_the_other_library_and_a_missing_one_are_named(
    timm_folder: Path, transformers_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = (
        ("timm", transformers_folder, "kind=transformers"),
        ("transformers", timm_folder, "kind=timm"),
        ("timm", tmp_path / "none", "none is not a folder"),
    )
    for kind, folder, reason in wrong:
        assert main(["import", f"kind={kind}", f"folder={folder}", f"out={tmp_path / 'run'}"]) == 3
        assert reason in capsys.readouterr().err


def test_code_of_a_folder_of_transformers_is_not_run(
    transformers_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((transformers_folder / "config.json").read_text())
    folder = tmp_path / "net"
    folder.mkdir()
    for part in transformers_folder.iterdir():
        (folder / part.name).write_bytes(part.read_bytes())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoConfig": "evil.Config"}}))
    assert main(["import", "kind=transformers", f"folder={folder}", f"out={tmp_path / 'run'}"]) == 3
    assert "names code of its own" in capsys.readouterr().err


@pytest.fixture(scope="module")
def imported(timm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of the network of timm; never write into it."""
    run = tmp_path_factory.mktemp("imported") / "run"
    assert main(["import", "kind=timm", f"folder={timm_folder}", f"out={run}"]) == 0
    return run


@pytest.mark.parametrize(
    ("change", "code", "reason"),
    [
        ({"architecture": "hf_hub:someone/net"}, 3, "timm has no network 'hf_hub:someone/net'"),
        ({"arguments": {"checkpoint_path": "/etc/passwd"}}, 3, "'checkpoint_path' is not allowed"),
        ({"architecture": "vit_base_patch16_224"}, 3, "parameters, its weights"),
        ({"temperature": 0}, 4, "its temperature is 0; expected a number above 0"),
        ({"timm": {"input_size": [3, 40, 40], "crop_pct": 1e-4}}, 4, "its timm is"),
        ({"arguments": 3}, 4, "cannot be opened by its run.json"),
    ],
)
def test_what_a_stranger_has_changed_in_a_run_folder_is_refused_before_it_is_used(
    change: dict[str, object],
    code: int,
    reason: str,
    imported: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = shutil.copytree(imported, tmp_path / "run")
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    record["detector"] |= change
    record["checkpoint_sha256"] = hash_detector(run / "detector", RunRecord(**record))
    (run / "run.json").write_text(json.dumps(record), encoding="utf-8")
    asked: list[object] = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: asked.append(address))
    file = next((images / "blind" / "real").rglob("*.png"))
    assert main(["predict", str(file), f"ckpt={run}", f"output={tmp_path / 'out.csv'}"]) == code
    assert reason in capsys.readouterr().err
    assert asked == []


@pytest.mark.parametrize(
    ("kind", "change", "reason"),
    [
        ("timm", {"architecture": "vit_base_patch16_224"}, "parameters, its weights"),
        ("timm", {"model_args": {"embed_dim": 9}}, "The weights do not fit"),
        ("transformers", {"num_hidden_layers": 3}, "parameters, its weights"),
        ("transformers", {"hidden_size": 4096, "num_hidden_layers": 48}, "far larger than its weights"),
        ("transformers", {"num_hidden_layers": 10**6}, "far larger than its weights"),
        ("transformers", {"model_type": "timm_wrapper", "architecture": "hf_hub:someone/net"}, "Use kind=timm"),
    ],
)
def test_a_network_that_is_larger_than_its_weights_or_lies_elsewhere_is_refused(
    kind: str,
    change: dict[str, object],
    reason: str,
    timm_folder: Path,
    transformers_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = shutil.copytree(timm_folder if kind == "timm" else transformers_folder, tmp_path / "net")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | change
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    asked: list[object] = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: asked.append(address))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert main(["import", f"kind={kind}", f"folder={folder}", f"out={tmp_path / 'run'}"]) == 3
    assert reason in capsys.readouterr().err
    assert asked == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024  # KiB
