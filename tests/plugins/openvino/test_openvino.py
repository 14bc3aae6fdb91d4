"""OpenVINO networks: precisions, quantisation and serialisation."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from avatar_bench.inference import runtimes
from tests.models import small

if runtimes.find_missing_package("openvino"):
    pytest.skip("the extra openvino is not installed", allow_module_level=True)

from avatar_bench.plugins.openvino.runtime import openvino

SIZE, COUNT = 32, 24


@pytest.fixture(scope="module")
def classifier():
    return small.build_classifier("test_resnet")


@pytest.fixture(scope="module")
def network(classifier):
    return runtimes.find_runtime("openvino").export_network(classifier, SIZE)


@pytest.fixture(scope="module")
def images():
    return small.images(COUNT)


def expected(classifier, images):
    with torch.inference_mode():
        return classifier(images)[0].numpy()


@pytest.mark.parametrize(("precision", "apart"), [("32", 1e-5), ("bf16", 0.02)])
def test_it_answers_as_torch_whatever_the_layout_and_each_time_the_same(precision, apart, classifier, network, images):
    engine = runtimes.find_runtime("openvino").load_engine(network, 2, precision)
    logits = engine(images)
    np.testing.assert_allclose(logits, expected(classifier, images), atol=apart)
    np.testing.assert_array_equal(engine(images.contiguous(memory_format=torch.channels_last)), logits)


def test_a_quantised_network_is_near_and_says_how_often_it_agrees(classifier, network, images, capfd):
    whole = expected(classifier, images)
    targets = whole.argmax(axis=1)
    targets[0] = (targets[0] + 1) % 3
    made = openvino.quantise_network(network, images, targets)
    assert capfd.readouterr() == ("", "")
    logits = runtimes.find_runtime("openvino").load_engine(made, 1, "int8")(images)
    assert 0 < np.abs(logits - whole).max() < 0.15 * np.abs(whole).max()
    agreed = int((logits.argmax(axis=1) == whole.argmax(axis=1)).sum())
    right = (logits.argmax(axis=1) == targets).mean()
    assert made.note.startswith(f"precision=int8: {agreed} of {COUNT} predictions")
    assert made.note.endswith(f"accuracy {right:.1%}, with 32 bits {(COUNT - 1) / COUNT:.1%}.")
    assert len(made.weights) < len(network.weights) / 2


def test_texts_are_kept_as_they_are(network):
    text = json.dumps({"классы": ["a<b>", "'\"&é"]}, ensure_ascii=False)
    made = openvino.serialise_network(openvino.read_network(network), {"avatar_bench": text})
    assert openvino.read_network(made).get_rt_info(["avatar_bench"]).value == text


TWO_ENGINES = """
import os, signal, sys
import torch
from avatar_bench.inference.runtimes import ExportedNetwork
from avatar_bench.plugins.openvino.runtime import openvino

network = ExportedNetwork(*(open(file, "rb").read() for file in sys.argv[1:]))
engines = [openvino.load_engine(network, 1, precision) for precision in ("32", "bf16")]
for engine in engines:
    engine(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
del engine, engines[0], engines[0]
signal.signal(signal.SIGCHLD, lambda *told: None)
if os.fork() == 0:
    os._exit(0)
os.wait()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, there is no stack for signals")
def test_a_process_lives_on_after_two_engines_when_a_worker_ends(network, tmp_path):
    for name, content in (("net.xml", network.graph), ("net.bin", network.weights)):
        (tmp_path / name).write_bytes(content)
    quiet = ["-W", "ignore::DeprecationWarning"]  # of a fork beside threads, from Python 3.12 on
    command = [sys.executable, *quiet, "-c", TWO_ENGINES, str(tmp_path / "net.xml"), str(tmp_path / "net.bin")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
