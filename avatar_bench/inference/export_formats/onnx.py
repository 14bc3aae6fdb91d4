"""ONNX, computed by onnxruntime and others."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from avatar_bench.inference.export_formats import draw_images, refuse_different
from avatar_bench.inference.runtimes.onnx import export_onnx, import_onnxruntime
from avatar_bench.models.classifier import Classifier


def encode(classifier: Classifier, texts: Mapping[str, str]) -> dict[str, bytes]:
    """Return the model; raise CheckpointError if it computes other outputs than torch."""
    onnx: Any = importlib.import_module("onnx")  # an optional dependency
    onnxruntime = import_onnxruntime()
    images = draw_images(classifier)
    model = onnx.load_model_from_string(export_onnx(classifier, images.shape[-1], classifier.card.temperature))
    onnx.helper.set_model_props(model, dict(texts))
    data: bytes = model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    refuse_different(classifier, images, session.run(["logits", "probabilities"], {"images": images.numpy()}))
    return {".onnx": data}
