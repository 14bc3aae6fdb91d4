"""export: what it writes is read back as what it was, and by others."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from avatar_bench.cli.app import main
from avatar_bench.errors import CheckpointError, ConfigError
from avatar_bench.inference import runtimes
from avatar_bench.models.checkpoint import read_checkpoint
from avatar_bench.models.model_card import Card
from avatar_bench.models.pretrained_backbone import read_weights
from avatar_bench.runs.run import Run


@pytest.fixture(scope="module")
def exported(tiny_run, tmp_path_factory):
    file = tmp_path_factory.mktemp("exported") / "сеть, 1.safetensors"
    assert main(["export", f"ckpt={tiny_run}", f"out={file}"]) == 0
    return file


def test_an_exported_network_predicts_like_the_run(exported, tiny_run, images):
    tables = []
    for ckpt in (exported, tiny_run):
        output = exported.with_name("out.csv")
        assert main(["predict", f"ckpt={ckpt}", f"input={images / 'blind'}", f"output={output}", "workers=0"]) == 0
        tables.append(output.read_bytes())
    assert tables[0] == tables[1]


def test_a_damaged_record_beside_the_newest_run_is_named_and_skipped(exported, run_copy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("runs", "damaged").mkdir(parents=True)
    Path("runs", "damaged", "run.json").write_text('{"status": "finis')
    run_copy.rename(Path("runs", "good"))
    assert main(["export", "out=net.safetensors"]) == 0
    skipped, chosen = capsys.readouterr().err.splitlines()
    assert skipped.startswith("skipped: runs/damaged/run.json cannot be read: ")
    assert chosen == "ckpt=runs/good (the newest run)"
    assert Path("net.safetensors").read_bytes() == exported.read_bytes()


def test_an_exported_network_is_evaluated(exported, images, tmp_path):
    data = ["data=manifest", f"data.manifest={images / 'blind.csv'}", "data.workers=0", f"out={tmp_path}"]
    assert main(["evaluate", f"ckpt={exported}", "block=blind_test", *data]) == 0
    assert list(tmp_path.rglob("metrics.json"))


def test_the_weights_are_called_as_in_timm_and_stand_beside_their_card(exported, tiny_run):
    run = Run.open(tiny_run)
    net = timm.create_model(run.card.backbone, num_classes=3)
    net.load_state_dict(load_file(exported))
    with safe_open(exported, framework="pt") as content:
        texts = content.metadata()
    assert json.loads(texts["avatar_bench"]) == run.card.plain()
    card = json.loads(exported.with_suffix(".json").read_text(encoding="utf-8"))
    assert card["avatar_bench"] == run.card.plain()
    assert card["provenance"]["checkpoint_sha256"] == run.checkpoint_sha256
    assert card["provenance"]["metrics"] == run.record.metrics
    assert Card.from_checkpoint(read_checkpoint(exported), exported) == run.card


def test_a_training_from_an_exported_network_keeps_to_its_split(exported, tiny_run, train, tmp_path, capsys):
    begun = f"model.weights={exported}"
    words = ("data.split.seed=1", "trainer=debug")
    same = train(tmp_path / "same", begun, "trainer=debug")
    init = json.loads((same / "run.json").read_text(encoding="utf-8"))["init"]
    card = Run.open(tiny_run).card
    assert [step["split_fingerprint"] for step in init["ancestors"]] == [card.split_fingerprint]
    train(tmp_path / "refused", begun, *words, code=3)
    err = capsys.readouterr().err
    assert "was trained with labels on data other than" in err
    assert "allow=[pretraining]" in err
    run = train(tmp_path / "allowed", begun, *words, "allow=[pretraining]")
    assert main(["evaluate", f"ckpt={run}", "data.workers=0", "block.blind_test.resamples=100"]) == 0
    assert "blind_test: The initial weights were pretrained with labels outside this project" in capsys.readouterr().err
    again = tmp_path / "again.safetensors"
    assert main(["export", f"ckpt={run}", f"out={again}"]) == 0
    train(tmp_path / "laundered", f"model.weights={again}", *words, code=3)
    onward = train(tmp_path / "onward", f"init_from={run}", *words)
    assert main(["export", f"ckpt={onward}", f"out={again}"]) == 0
    train(tmp_path / "laundered", f"model.weights={again}", *words, code=3)


@pytest.mark.parametrize("spoil", ["foreign", "card", "seal"])
def test_a_safetensors_file_that_we_did_not_write_is_refused(spoil, exported, tmp_path):
    state = load_file(exported)
    with safe_open(exported, framework="pt") as content:
        texts = content.metadata()
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


@pytest.mark.skipif(bool(runtimes.find_missing_package("onnx")), reason="the extra export is not installed")
def test_onnx_answers_as_the_run_and_says_what_it_is(tiny_run, tmp_path, small):
    import onnx
    import onnxruntime

    file = tmp_path / "net.onnx"
    assert main(["export", f"ckpt={tiny_run}", f"out={file}"]) == 0
    assert b"site-packages" not in file.read_bytes()  # as in the stack traces that torch adds
    run = Run.open(tiny_run, accelerator="cpu")
    said = {prop.key: prop.value for prop in onnx.load(file).metadata_props}
    assert json.loads(said["avatar_bench"]) == run.card.plain()
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for count in (1, 5):
        images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
        logits, probabilities, embeddings = session.run(None, {"images": images.numpy()})
        with torch.inference_mode():
            expected, features = run.predictor.module(images)
        np.testing.assert_allclose(embeddings, features, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
        scaled = torch.softmax(expected / run.temperature, dim=1)
        np.testing.assert_allclose(probabilities, scaled, atol=1e-4)


@pytest.mark.parametrize("suffix", ["html", "safetensors"])
def test_a_file_of_somebody_else_is_not_replaced(suffix, tiny_run, tmp_path, capsys):
    file = tmp_path / f"mine.{suffix}"
    file.write_text("mine")
    assert main(["export", f"ckpt={tiny_run}", f"out={file}"]) == 2
    assert f"mine.{suffix} is there, without the card" in capsys.readouterr().err
    assert [file.read_text(), len(list(tmp_path.iterdir()))] == ["mine", 1]


@pytest.mark.skipif(bool(runtimes.find_missing_package("openvino")), reason="the extra openvino is not installed")
def test_openvino_answers_as_the_run_and_says_what_it_is(tiny_run, tmp_path):
    import openvino

    file = tmp_path / "net.xml"
    weights = file.with_suffix(".bin")
    for earlier in (file, weights):
        earlier.write_bytes(b"earlier")
    file.with_suffix(".json").write_text('{"avatar_bench": "0.3.0"}')
    assert main(["export", f"ckpt={tiny_run}", f"out={file}"]) == 0
    run = Run.open(tiny_run, accelerator="cpu")
    core = openvino.Core()
    model = core.read_model(file)
    assert json.loads(model.get_rt_info(["avatar_bench"]).value) == run.card.plain()
    card = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    assert card["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert card["weights"] == {"file": "net.bin", "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
    assert "(N, S, S, 3)" in card["input"]
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for count in (1, 5):
        images = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8)
        found = compiled({"images": images.numpy()})
        with torch.inference_mode():
            expected = run.predictor.module(images.permute(0, 3, 1, 2))[0]
        np.testing.assert_allclose(found["logits"], expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found["probabilities"], torch.softmax(expected / run.temperature, 1), atol=1e-4)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["out=net.pt"], 2, ".safetensors, .onnx, .xml or .html"),
        (["out=net"], 2, ".safetensors, .onnx, .xml or .html"),
        (["out=weights.xml"], 2, "weights.bin"),
        (["out=taken.onnx"], 2, "taken.json"),
        (["out=folder.onnx"], 5, "cannot be written"),
        (["out=net.onnx", "ckpt=nowhere"], 4, "does not exist"),
    ],
)
def test_a_mistake_is_told_and_leaves_nothing(words, code, told, tiny_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.json").write_text('{"name": "another"}')
    (tmp_path / "weights.bin").write_bytes(b"others")
    (tmp_path / "folder.onnx").mkdir()
    before = sorted(tmp_path.iterdir())
    assert main(["export", f"ckpt={tiny_run}", *words]) == code
    err = capsys.readouterr().err
    assert told in err
    assert len(err.splitlines()) <= 3
    assert sorted(tmp_path.iterdir()) == before


def test_weights_beyond_what_onnx_holds_are_one_error_before_they_are_exported():
    from avatar_bench.inference.runtimes.onnx import export_onnx

    with torch.device("meta"):  # takes no memory
        net = torch.nn.Linear(2**15, 2**15)
    with pytest.raises(ConfigError, match=r"4\.3 GB of weights; an ONNX model holds at most 2 GB") as caught:
        export_onnx(net, 32)
    assert len(caught.value.lines) == 2


def test_a_write_that_fails_leaves_the_earlier_file(tiny_run, tmp_path, monkeypatch, capsys):
    file = tmp_path / "net.safetensors"
    file.write_bytes(b"earlier")
    file.with_suffix(".json").write_text('{"avatar_bench": "0.3.0"}')

    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert main(["export", f"ckpt={tiny_run}", f"out={file}"]) == 5
    assert "No space left" in capsys.readouterr().err
    assert sorted(one.name for one in tmp_path.iterdir()) == ["net.json", "net.safetensors"]
    assert file.read_bytes() == b"earlier"


def test_a_soup_is_exported_and_an_ensemble_is_not(train, tiny_run, tmp_path):
    from avatar_bench.runs.ensembles import save_ensemble

    run = Run.open(tiny_run)
    member = {"run": str(tiny_run), "checkpoint_sha256": run.checkpoint_sha256, "weight": 1.0, "temperature": 1.0}
    for kind, code in (("soup", 0), ("ensemble", 3)):
        said = {"kind": kind, "members": [member], "temperature": 1.5, "classes": list(run.classes)}
        folder = save_ensemble(tmp_path / kind, said)
        assert main(["export", f"ckpt={folder}", f"out={tmp_path / kind}.safetensors"]) == code
    assert Run.open(tmp_path / "soup.safetensors").temperature == 1.5
    steps = read_weights(tmp_path / "soup.safetensors").ancestors
    assert [step["split_fingerprint"] for step in steps] == [
        run.card.split_fingerprint
    ] * 2  # its member's, and its own
    assert not (tmp_path / "ensemble.safetensors").exists()
