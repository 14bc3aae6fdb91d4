"""Export of a network with its card to a single file, for use elsewhere."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avatar_bench.errors import CheckpointError
from avatar_bench.files.hashes import sha256_of_bytes
from avatar_bench.inference.runtimes import openvino
from avatar_bench.inference.runtimes.onnx import export_onnx, import_onnxruntime
from avatar_bench.models.checkpoint import CARD_KEY, encode_weights
from avatar_bench.models.classifier import Classifier
from avatar_bench.models.model_card import PROVENANCE_KEY

TOLERANCE = 1e-4  # between the outputs of an exported network and torch: absolute below 1, relative above
PAGE = ".html"  # a page that contains the ONNX model
RUNTIME_OF_SUFFIX = {".onnx": "onnx", PAGE: "onnx", ".xml": "openvino"}
INPUT_DESCRIPTION = "images: uint8 {shape}, RGB, of the size in preprocessing; mean and std are applied inside"
INPUT_SHAPES = {".onnx": "(N, 3, S, S)", ".xml": "(N, S, S, 3)"}
OUTPUT_DESCRIPTION = "logits (N, C), and probabilities (N, C): the softmax of logits / temperature"
EMBEDDINGS_DESCRIPTION = "; embeddings (N, D): the features that the classifier sees"  # of .onnx


def encode_export(classifier: Classifier, provenance: Mapping[str, Any], kind: str) -> dict[str, bytes]:
    """Return the contents of the files of an exported classifier by suffix; the file of `kind` comes last.

    `kind` is .safetensors, .onnx, .html, which gets that of .onnx, or .xml, which has its weights in a .bin file.
    Weights have timm's names, and the metadata contains card and provenance. Raises CheckpointError if the exported
    network computes other outputs than torch.
    """
    metadata = {CARD_KEY: classifier.card.plain(), PROVENANCE_KEY: dict(provenance)}
    texts = {name: json.dumps(value, ensure_ascii=False, allow_nan=False) for name, value in metadata.items()}
    if kind == ".safetensors":
        return {kind: encode_weights(classifier.net, texts)}
    size, noise = int(classifier.card.preprocessing["size"]), torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8, generator=noise)
    if kind in (".onnx", PAGE):
        return {kind: _encode_onnx(classifier, texts, images)}
    model = openvino.convert_network(classifier, size, classifier.card.temperature)
    network = openvino.serialise_network(model, texts)
    _refuse_different(classifier, images, openvino.compute_outputs(openvino.read_network(network), images))
    return {".bin": network.weights, kind: network.graph}


def describe_export(
    classifier: Classifier, provenance: Mapping[str, Any], file: Path, contents: Mapping[str, bytes]
) -> str:
    """Return the description of an export, with the contents from `encode_export`, as readable JSON."""
    kind = file.suffix.lower()
    description: dict[str, Any] = {"file": file.name, "sha256": sha256_of_bytes(contents[kind])}
    if ".bin" in contents:
        description["weights"] = {"file": file.with_suffix(".bin").name, "sha256": sha256_of_bytes(contents[".bin"])}
    if kind in INPUT_SHAPES:
        shape = INPUT_SHAPES[kind]
        description |= {"input": INPUT_DESCRIPTION.format(shape=shape), "outputs": OUTPUT_DESCRIPTION}
        description["outputs"] += EMBEDDINGS_DESCRIPTION * (kind == ".onnx")
    description |= {CARD_KEY: classifier.card.plain(), PROVENANCE_KEY: dict(provenance)}
    return json.dumps(description, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _encode_onnx(classifier: Classifier, texts: Mapping[str, str], images: Tensor) -> bytes:
    onnx: Any = importlib.import_module("onnx")  # an optional dependency
    onnxruntime = import_onnxruntime()
    exported = export_onnx(classifier, images.shape[-1], classifier.card.temperature)
    model = onnx.load_model_from_string(exported)
    onnx.helper.set_model_props(model, dict(texts))
    data: bytes = model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    _refuse_different(classifier, images, session.run(["logits", "probabilities"], {"images": images.numpy()}))
    return data


def _refuse_different(classifier: Classifier, images: Tensor, outputs: Sequence[NDArray[np.float32]]) -> None:
    """Raise CheckpointError if the logits or probabilities of an exported network differ from those of torch."""
    with torch.inference_mode():
        logits = classifier(images)[0]
    expected = [logits.numpy(), torch.softmax(logits / classifier.card.temperature, dim=1).numpy()]
    pairs = zip(outputs, expected, strict=True)
    distance = max(float((np.abs(got - want) / np.maximum(1, np.abs(want))).max()) for got, want in pairs)
    if not distance <= TOLERANCE:
        raise CheckpointError(f"The outputs of the exported network differ from torch's by {distance:.2g}.")
