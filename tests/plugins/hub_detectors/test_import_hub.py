"""import of folders of timm and transformers, with classes, sizes and normalisations other than ours."""

import json
import resource
import shutil
import socket

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from avatar_bench.cli.app import main
from avatar_bench.data.dataset import read_manifest
from avatar_bench.runs.ensembles import open_run
from avatar_bench.runs.imported import hash_detector
from avatar_bench.runs.record import RunRecord
from tests.builders.commands import change_record, data_of, read_record

CLASSES = ["artificial", "painted", "photo"]
MAP = "classes={artificial: generated, painted: drawing, photo: real}"


@pytest.fixture(scope="module")
def timm_folder(tmp_path_factory):
    """Return a network with random weights, as timm saves it for the hub."""
    folder = tmp_path_factory.mktemp("timm")
    torch.manual_seed(0)
    net = timm.create_model("test_resnet.r160_in1k", num_classes=3)
    stated = {"input_size": (3, 40, 40), "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "crop_pct": 0.8}
    net.pretrained_cfg = net.pretrained_cfg | stated | {"interpolation": "bilinear"}
    timm.models.save_for_hf(net, folder, {"label_names": CLASSES}, safe_serialization=True)
    return folder


@pytest.fixture(scope="module")
def transformers_folder(tmp_path_factory):
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


def predict(folder, kind, images, out):
    """Import a folder, check its evaluation and return its predictions of the blind set, by path."""
    assert main(["import", f"kind={kind}", f"folder={folder}", f"out={out}", MAP]) == 0
    words = [*data_of(images / "blind.csv"), "data.workers=0", "block=blind_test", "block.blind_test.resamples=100"]
    assert main(["evaluate", f"ckpt={out}", *words]) == 0
    blind = read_manifest(images / "blind.csv")
    assert open_run(out).classes == ("generated", "drawing", "real")
    table = open_run(out).predict([blind.file(row) for row in range(len(blind))])
    return table.set_index("path")[["prob_generated", "prob_drawing", "prob_real"]].astype(float)


def test_a_folder_of_timm_predicts_as_timm_does(timm_folder, images, tmp_path):
    table = predict(timm_folder, "timm", images, tmp_path / "run")
    net = timm.create_model(f"local-dir:{timm_folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(net))
    batch = torch.stack([transform(Image.open(path).convert("RGB")) for path in table.index])
    with torch.inference_mode():
        expected = net(batch).softmax(dim=1)
    np.testing.assert_allclose(table, expected, atol=1e-5)
    assert expected.std(dim=0).max() > 1e-3
    record = read_record(tmp_path / "run")
    assert record["detector"]["parameters"] == sum(parameter.numel() for parameter in net.parameters())
    assert main(["report", f"runs={tmp_path / 'run'}"]) == 0
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert f"imported: timm, {record['detector']['parameters'] / 1e6:.3f} M parameters, training data: unknown" in page


def test_a_folder_of_transformers_predicts_as_its_pipeline(transformers_folder, images, tmp_path):
    from transformers import pipeline

    table = predict(transformers_folder, "transformers", images, tmp_path / "run")
    classify = pipeline("image-classification", model=str(transformers_folder), device="cpu")
    for path, row in table.iterrows():
        scores = {entry["label"]: entry["score"] for entry in classify(str(path), top_k=3)}
        np.testing.assert_allclose(row, [scores[name] for name in CLASSES], atol=1e-5)
    assert table.std().max() > 1e-3


@pytest.fixture
def folder(request, tmp_path):
    """Return a function that copies the folder of a kind of network, with a changed config.json."""

    def copy(kind, **change):
        folder = shutil.copytree(request.getfixturevalue(f"{kind}_folder"), tmp_path / "net")
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps(config | change), encoding="utf-8")
        return folder

    return copy


@pytest.fixture
def addresses(monkeypatch):
    """The addresses that sockets are connected to; none is reached."""
    addresses = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: addresses.append(address))
    return addresses


@pytest.mark.parametrize(
    ("kind", "change", "code", "reason"),
    [
        ("timm", {"architecture": "hf_hub:someone/net"}, 3, "timm has no network 'hf_hub:someone/net'"),
        ("timm", {"model_args": {"checkpoint_path": "x.pth"}}, 3, "'checkpoint_path' is not allowed"),
        ("timm", {"num_classes": 4}, 2, "has 4 outputs, but 3 class names"),
        ("timm", {"architecture": "vit_base_patch16_224"}, 3, "parameters, its weights"),
        ("timm", {"model_args": {"embed_dim": 9}}, 3, "The weights do not fit"),
        ("transformers", {"auto_map": {"AutoConfig": "evil.Config"}}, 3, "names code of its own"),
        ("transformers", {"num_hidden_layers": 3}, 3, "parameters, its weights"),
        ("transformers", {"hidden_size": 4096, "num_hidden_layers": 48}, 3, "far larger than its weights"),
        ("transformers", {"num_hidden_layers": 10**6}, 3, "far larger than its weights"),
        ("transformers", {"model_type": "timm_wrapper", "architecture": "hf_hub:someone/net"}, 3, "Use kind=timm"),
    ],
)
def test_a_network_that_lies_elsewhere_has_code_or_is_larger_than_its_weights_is_refused(
    kind, change, code, reason, folder, addresses, tmp_path, capsys
):
    copy, before = folder(kind, **change), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert main(["import", f"kind={kind}", f"folder={copy}", f"out={tmp_path / 'run'}"]) == code
    assert reason in capsys.readouterr().err
    assert addresses == []
    assert not (tmp_path / "run").exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024  # KiB


@pytest.mark.parametrize(
    ("file", "reason"),
    [("model.safetensors", "has no weights as .safetensors"), ("config.json", "has no config.json")],
)
def test_a_folder_without_a_file_is_refused_and_no_pickle_read(file, reason, folder, tmp_path, capsys):
    copy = folder("timm")
    (copy / file).rename(copy / "pytorch_model.bin")
    assert main(["import", "kind=timm", f"folder={copy}", f"out={tmp_path / 'run'}"]) == 3
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_folder_of_the_other_library_and_a_missing_one_are_named(timm_folder, transformers_folder, tmp_path, capsys):
    for kind, folder, reason in (
        ("timm", transformers_folder, "kind=transformers"),
        ("transformers", timm_folder, "kind=timm"),
        ("timm", tmp_path / "none", "none is not a folder"),
    ):
        assert main(["import", f"kind={kind}", f"folder={folder}", f"out={tmp_path / 'run'}"]) == 3
        assert reason in capsys.readouterr().err


@pytest.fixture(scope="module")
def imported(timm_folder, tmp_path_factory):
    """Return the run folder of the network of timm; never write into it."""
    run = tmp_path_factory.mktemp("imported") / "run"
    assert main(["import", "kind=timm", f"folder={timm_folder}", f"out={run}"]) == 0
    return run


@pytest.mark.parametrize(
    ("change", "code", "reason"),
    [
        ({"architecture": "hf_hub:someone/net"}, 3, "timm has no network 'hf_hub:someone/net'"),
        ({"arguments": {"checkpoint_path": "/etc/passwd"}}, 3, "'checkpoint_path' is not allowed"),
        ({"temperature": 0}, 4, "temperature is 0; expected greater than 0"),
        ({"timm": {"input_size": [3, 40, 40], "crop_pct": 1e-4}}, 4, "expected input_size with crop_pct up to"),
        ({"arguments": 3}, 4, "cannot be opened by its run.json"),
    ],
)
def test_what_a_stranger_has_changed_in_a_run_folder_is_refused_before_it_is_used(
    change, code, reason, imported, addresses, images, tmp_path, capsys
):
    run = shutil.copytree(imported, tmp_path / "run")
    record = read_record(run)
    record["detector"] |= change
    record["checkpoint_sha256"] = hash_detector(run / "detector", RunRecord(**record))
    change_record(run, **record)
    file = next((images / "blind" / "real").rglob("*.png"))
    assert main(["predict", str(file), f"ckpt={run}", f"output={tmp_path / 'out.csv'}"]) == code
    assert reason in capsys.readouterr().err
    assert addresses == []
