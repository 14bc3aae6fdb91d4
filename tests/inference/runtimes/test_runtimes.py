"""Each runtime computes the same logits as torch."""

import copy
import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import torch

from avatar_bench.config.entries import use_folders
from avatar_bench.data.transforms import Preprocessing
from avatar_bench.errors import ConfigError
from avatar_bench.inference import runtimes
from avatar_bench.inference.network_predictor import NetworkPredictor
from tests.builders.run_files import write_file
from tests.models.small import build_classifier, images

SIZE = 32
SAVED = """
import io

import torch

from avatar_bench.inference.runtimes import ExportedNetwork


def export_network(classifier, size):
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(classifier, torch.zeros(2, 3, size, size, dtype=torch.uint8)), buffer)
    return ExportedNetwork(buffer.getvalue())


def load_engine(network, threads, precision):
    loaded = torch.jit.load(io.BytesIO(network.graph))
    return lambda images: loaded(images)[0].detach().numpy()
"""


needs_openvino = pytest.mark.skipif(
    bool(runtimes.find_missing_package("openvino")), reason="the extra openvino is not installed"
)


@pytest.fixture(scope="module")
def classifier():
    return build_classifier("test_resnet.r160_in1k")


def answers(runtime, classifier, *counts):
    size = classifier.card.preprocessing["size"]
    factory = runtimes.prepare_engine(runtime, classifier, size)
    for count in counts:
        with torch.no_grad():
            expected = classifier(images(count, size))[0].numpy()
        np.testing.assert_allclose(factory(1)(images(count, size)), expected, atol=1e-5)


@pytest.mark.parametrize("runtime", ["torch", "contiguous", "onnx", "openvino"])
def test_a_runtime_answers_as_the_classifier_for_any_batch_and_leaves_it_alone(runtime, classifier):
    if runtimes.find_missing_package(runtime):
        pytest.skip(f"a package of the runtime {runtime} is not installed")
    answers(runtime, classifier, 1, 2, 7)
    assert next(classifier.net.parameters()).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runtime", "name", "size", "options"),
    [
        pytest.param("openvino", "test_convnext", 64, {}, marks=needs_openvino),
        ("compile", "test_vit", SIZE, {"img_size": SIZE, "depth": 1}),
    ],
)
def test_a_runtime_answers_as_other_families_of_networks(runtime, name, size, options):
    answers(runtime, build_classifier(name, size, **options), 3)


@pytest.mark.slow
@needs_openvino
def test_a_network_that_openvino_cannot_hold_is_refused_and_its_makers_are_told_nothing(classifier):
    with pytest.raises(ConfigError, match="upsample_bicubic2d_aa") as caught:
        runtimes.find_runtime("openvino").export_network(build_classifier("test_vit", 160), 160)
    assert len(caught.value.lines) <= 2
    code = "import sys; from avatar_bench.plugins.openvino.runtime import openvino; openvino._import_openvino(); "
    code += "assert sys.modules['openvino_telemetry'] is None; import openvino.tools.ovc as o; print(o.telemetry)"
    stdout = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "telemetry_stub" in stdout


def test_a_missing_package_is_named_with_its_extra(classifier, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else real(name))
    with pytest.raises(ConfigError, match="onnxruntime") as caught:
        runtimes.prepare_engine("onnx", classifier, SIZE)
    assert "avatar-bench[export]" in str(caught.value)
    assert runtimes.find_missing_package("torch") == ""


def test_a_runtime_of_a_user_computes_what_it_exports(classifier, tmp_path, monkeypatch):
    monkeypatch.setenv("AVATAR_BENCH_CACHE", str(tmp_path / "cache"))  # else a network of an earlier test is taken
    write_file(tmp_path / "runtime" / "saved.py", SAVED)
    with use_folders([tmp_path]):
        assert runtimes.list_runtimes()[-1] == "saved"
        answers("saved", classifier, 1, 5)
        predictor = NetworkPredictor(
            name="run",
            classes=classifier.card.classes,
            preprocessings=(Preprocessing.from_dict(classifier.card.preprocessing),),
            sha256="0",
            load_network=lambda: copy.deepcopy(classifier),
            read_calibration=lambda: None,
            runtime="saved",
        )
        assert predictor.resolve_precision("auto") == "32"
        logits = predictor.compute_logits([images(5)])
    np.testing.assert_allclose(logits, classifier(images(5))[0].detach().numpy(), atol=1e-5)
    with pytest.raises(ConfigError, match="no runtime named 'saved'"):
        runtimes.prepare_engine("saved", classifier, SIZE)
