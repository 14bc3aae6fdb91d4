"""export: what it writes is read back as what it was, and by others."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from avatar_bench.cli.app import main
from avatar_bench.errors import CheckpointError, ConfigError
from avatar_bench.inference import runtimes
from avatar_bench.models.checkpoint import read_checkpoint
from avatar_bench.models.model_card import Card
from avatar_bench.models.pretrained_backbone import read_weights
from avatar_bench.runs.ensembles import save_ensemble
from avatar_bench.runs.run import Run
from tests.builders.commands import data_of, read_record


@pytest.fixture(scope="module")
def exported(tiny_run, tmp_path_factory):
    file = tmp_path_factory.mktemp("exported") / "сеть, 1.safetensors"
    assert main(["export", f"ckpt={tiny_run}", f"out={file}"]) == 0
    return file


def read_texts(file):
    with safe_open(file, framework="pt") as content:
        return content.metadata()


def test_an_exported_network_predicts_like_the_run_and_is_evaluated(exported, tiny_run, images, tmp_path):
    tables = []
    for ckpt in (exported, tiny_run):
        output = tmp_path / "out.csv"
        assert main(["predict", f"ckpt={ckpt}", f"input={images / 'blind'}", f"output={output}", "workers=0"]) == 0
        tables.append(output.read_bytes())
    assert tables[0] == tables[1]
    words = ["block=blind_test", *data_of(images / "blind.csv"), "data.workers=0", f"out={tmp_path}"]
    assert main(["evaluate", f"ckpt={exported}", *words]) == 0
    assert list(tmp_path.rglob("metrics.json"))


def test_the_weights_are_named_as_in_timm_and_lie_beside_their_card(exported, tiny_run):
    run = Run.open(tiny_run)
    net = timm.create_model(run.card.backbone, num_classes=3)
    net.load_state_dict(load_file(exported))
    assert json.loads(read_texts(exported)["avatar_bench"]) == run.card.plain()
    card = json.loads(exported.with_suffix(".json").read_text(encoding="utf-8"))
    assert card["avatar_bench"] == run.card.plain()
    provenance = {"checkpoint_sha256": run.checkpoint_sha256, "metrics": run.record.metrics}
    assert provenance.items() <= card["provenance"].items()
    assert Card.from_checkpoint(read_checkpoint(exported), exported) == run.card


def test_a_training_from_an_exported_network_keeps_to_its_split(exported, tiny_run, train, tmp_path, capsys):
    words, weights = ("data.split.seed=1", "trainer=debug"), f"model.weights={exported}"
    same = train(tmp_path / "same", weights, "trainer=debug")
    fingerprints = [step["split_fingerprint"] for step in read_record(same)["init"]["ancestors"]]
    assert fingerprints == [Run.open(tiny_run).card.split_fingerprint]
    train(tmp_path / "refused", weights, *words, code=3)
    err = capsys.readouterr().err
    assert "was trained with labels on data other than" in err
    assert "allow=[pretraining]" in err


@pytest.mark.slow
def test_what_was_trained_on_other_data_is_warned_of_and_no_export_hides_it(exported, train, tmp_path, command):
    words, weights = ("data.split.seed=1", "trainer=debug"), f"model.weights={exported}"
    run = train(tmp_path / "allowed", weights, *words, "allow=[pretraining]")
    err = command("evaluate", f"ckpt={run}", "data.workers=0", "block.blind_test.resamples=100").err
    assert "blind_test: The initial weights were pretrained with labels outside this project" in err
    again = tmp_path / "again.safetensors"
    for start in (run, train(tmp_path / "onward", f"init_from={run}", *words)):
        command("export", f"ckpt={start}", f"out={again}")
        train(tmp_path / "laundered", f"model.weights={again}", *words, code=3)


@pytest.mark.parametrize("spoil", ["foreign", "card", "seal"])
def test_a_safetensors_file_that_we_did_not_write_is_refused(spoil, exported, tmp_path):
    state, texts = load_file(exported), read_texts(exported)
    if spoil == "foreign":
        texts = {}
    elif spoil == "card":
        texts["avatar_bench"] = texts["avatar_bench"].replace("drawing", "drowing")
    else:
        state["fc.bias"] += 1
    save_file(state, tmp_path / "x.safetensors", texts)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(tmp_path / "x.safetensors")
    assert len(caught.value.lines) <= 3


def assert_outputs(run, images, logits, probabilities):
    """Compare outputs with those of the network of a run, and return its embeddings."""
    with torch.inference_mode():
        expected, embeddings = run.predictor.module(images)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(probabilities, torch.softmax(expected / run.temperature, dim=1), atol=1e-4)
    return embeddings


@pytest.mark.skipif(bool(runtimes.find_missing_package("onnx")), reason="the extra export is not installed")
def test_onnx_computes_as_the_run_and_says_what_it_is(tiny_run, tmp_path):
    import onnx
    import onnxruntime

    file = tmp_path / "net.onnx"
    assert main(["export", f"ckpt={tiny_run}", f"out={file}"]) == 0
    assert b"site-packages" not in file.read_bytes()  # as in the stack traces that torch adds
    run = Run.open(tiny_run, accelerator="cpu")
    properties = {prop.key: prop.value for prop in onnx.load(file).metadata_props}
    assert json.loads(properties["avatar_bench"]) == run.card.plain()
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for count in (1, 5):
        images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
        logits, probabilities, embeddings = session.run(None, {"images": images.numpy()})
        expected = assert_outputs(run, images, logits, probabilities)
        np.testing.assert_allclose(embeddings, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(bool(runtimes.find_missing_package("openvino")), reason="the extra openvino is not installed")
def test_openvino_computes_as_the_run_and_says_what_it_is(tiny_run, tmp_path):
    import openvino

    file = tmp_path / "net.xml"
    weights = file.with_suffix(".bin")
    for earlier in (file, weights):
        earlier.write_bytes(b"earlier")
    file.with_suffix(".json").write_text('{"avatar_bench": "0.3.0"}')
    assert main(["export", f"ckpt={tiny_run}", f"out={file}"]) == 0
    run, core = Run.open(tiny_run, accelerator="cpu"), openvino.Core()
    model = core.read_model(file)
    assert json.loads(model.get_rt_info(["avatar_bench"]).value) == run.card.plain()
    card = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    assert card["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert card["weights"] == {"file": "net.bin", "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
    assert "(N, S, S, 3)" in card["input"]
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for count in (1, 5):
        images = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8)
        outputs = compiled({"images": images.numpy()})
        assert_outputs(run, images.permute(0, 3, 1, 2), outputs["logits"], outputs["probabilities"])


@pytest.mark.skipif(bool(runtimes.find_missing_package("onnx")), reason="the extra export is not installed")
def test_the_program_of_the_docs_computes_the_probabilities_of_a_calibrated_run(run_copy, tmp_path, command, images):
    table = pd.read_csv(images / "blind.csv")
    table.loc[::5, "label"] = "real"  # errors, without which the temperature is that of the training
    table["path"] = [str(images / path) for path in table["path"]]
    table.to_csv(tmp_path / "wrong.csv", index=False)
    command("calibrate", f"ckpt={run_copy}", *data_of(tmp_path / "wrong.csv"), "workers=0")
    page = (Path(__file__).parents[2] / "docs" / "commands" / "export.md").read_text(encoding="utf-8")
    (tmp_path / "serve.py").write_text(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], encoding="utf-8")
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8))
    scene, turned = noise.resize((300, 90), Image.Resampling.BICUBIC), Image.Exif()
    turned[0x0112] = 6
    veiled = scene.copy()
    veiled.putalpha(noise.convert("L").resize(veiled.size))
    drawn = {"turned.jpg": scene, "grey.png": scene.convert("L"), "palette.png": scene.quantize(16)}
    drawn |= {"veiled.png": veiled, "small.png": noise, "wide.webp": scene.resize((400, 20))}
    files = [tmp_path / name for name in drawn]
    for file, image in zip(files, drawn.values(), strict=True):
        image.save(file, **({"exif": turned} if file.suffix == ".jpg" else {}))
    command("export", f"ckpt={run_copy}", f"out={tmp_path / 'net.onnx'}")
    served = subprocess.run(
        [sys.executable, tmp_path / "serve.py", tmp_path / "net.onnx", *files], capture_output=True, check=True
    )
    run = Run.open(run_copy, accelerator="cpu")
    assert run.temperature != run.card.temperature
    expected = run.predict([str(file) for file in files], precision="32")
    rows = [json.loads(line) for line in served.stdout.splitlines()]
    assert [row.pop("path") for row in rows] == expected["path"].tolist()
    names = [f"prob_{name}" for name in rows[0]]
    np.testing.assert_allclose([list(row.values()) for row in rows], expected[names].to_numpy(float), atol=1e-4)
    assert expected[names].to_numpy(float).std(axis=0).min() > 1e-3  # the images do not look alike to the network
    steps = " ".join(json.loads((tmp_path / "net.json").read_text(encoding="utf-8"))["steps"])
    assert steps.index("white") < steps.index("INTER_AREA") < steps.index("INTER_CUBIC") < steps.index("softmax")


def test_weights_beyond_what_onnx_holds_are_one_error_before_they_are_exported():
    from avatar_bench.inference.runtimes.onnx import export_onnx

    with torch.device("meta"):  # takes no memory
        net = torch.nn.Linear(2**15, 2**15)
    with pytest.raises(ConfigError, match=r"4\.3 GB of weights; an ONNX model holds at most 2 GB") as caught:
        export_onnx(net, 32)
    assert len(caught.value.lines) == 2


@pytest.mark.parametrize("suffix", ["html", "safetensors"])
def test_a_file_of_somebody_else_is_not_replaced(suffix, tiny_run, tmp_path, command):
    file = tmp_path / f"mine.{suffix}"
    file.write_text("mine")
    err = command("export", f"ckpt={tiny_run}", f"out={file}", code=2).err
    assert f"mine.{suffix} is there, without the card" in err
    assert [file.read_text(), len(list(tmp_path.iterdir()))] == ["mine", 1]


def test_a_write_that_fails_leaves_the_earlier_file(tiny_run, tmp_path, monkeypatch, command):
    file = tmp_path / "net.safetensors"
    file.write_bytes(b"earlier")
    file.with_suffix(".json").write_text('{"avatar_bench": "0.3.0"}')

    def fill(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fill)
    assert "No space left" in command("export", f"ckpt={tiny_run}", f"out={file}", code=5).err
    assert {path.name for path in tmp_path.iterdir()} == {"net.json", "net.safetensors"}
    assert file.read_bytes() == b"earlier"


def test_a_soup_is_exported_and_an_ensemble_is_not(tiny_run, tmp_path):
    run = Run.open(tiny_run)
    member = {"run": str(tiny_run), "checkpoint_sha256": run.checkpoint_sha256, "weight": 1.0, "temperature": 1.0}
    for kind, code in (("soup", 0), ("ensemble", 3)):
        description = {"kind": kind, "members": [member], "temperature": 1.5, "classes": list(run.classes)}
        folder = save_ensemble(tmp_path / kind, description)
        assert main(["export", f"ckpt={folder}", f"out={tmp_path / kind}.safetensors"]) == code
    assert Run.open(tmp_path / "soup.safetensors").temperature == 1.5
    steps = read_weights(tmp_path / "soup.safetensors").ancestors
    assert [step["split_fingerprint"] for step in steps] == [run.card.split_fingerprint] * 2  # its member's, its own
    assert not (tmp_path / "ensemble.safetensors").exists()
