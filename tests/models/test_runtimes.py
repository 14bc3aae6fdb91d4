"""Tests that each runtime answers what torch does."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
import timm
import torch

from avatar_bench.errors import ConfigError
from avatar_bench.models import runtimes
from avatar_bench.models.card import Card
from avatar_bench.models.classifier import Classifier

SIZE = 32


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    torch.manual_seed(0)
    net = timm.create_model("test_resnet.r160_in1k", pretrained=False, num_classes=3)
    preprocessing = {"size": SIZE, "resize": "squash", "mean": [0.5] * 3, "std": [0.25] * 3}
    made = Classifier(Card(("a", "b", "c"), "test_resnet.r160_in1k", preprocessing), net).eval()
    return made.to(memory_format=torch.channels_last)


def pictures(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def answers(runtime: str, classifier: Any, *counts: int) -> None:
    build = runtimes.prepare(runtime, classifier, SIZE)
    for count in counts:
        with torch.no_grad():
            expected = classifier(pictures(count))[0].numpy()
        np.testing.assert_allclose(build(1)(pictures(count)), expected, atol=1e-5)


def test_torch_answers_as_the_classifier(classifier: Classifier) -> None:
    answers("torch", classifier, 1, 5)


def test_contiguous_answers_as_the_classifier_and_leaves_it_alone(classifier: Classifier) -> None:
    answers("contiguous", classifier, 3)
    weight = next(classifier.net.parameters())
    assert weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.skipif(bool(runtimes.missing("onnx")), reason="the extra export is not installed")
def test_onnx_answers_as_the_classifier_for_any_batch(classifier: Classifier) -> None:
    answers("onnx", classifier, 1, 2, 7)


@pytest.mark.slow
def test_compile_answers_as_the_classifier(classifier: Classifier) -> None:
    answers("compile", classifier, 2)


def test_a_missing_package_is_named_with_its_extra(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else real(name))
    with pytest.raises(ConfigError, match="onnxruntime") as caught:
        runtimes.prepare("onnx", classifier, SIZE)
    assert "avatar-bench[export]" in str(caught.value)
    assert runtimes.missing("torch") == ""
