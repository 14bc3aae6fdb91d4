"""Export of a network with its card to files, for use elsewhere: the formats that `export out=` names by suffix.

A format is a module in this folder, or in export_format/ of a user's or a plug-in's, with `encode(classifier, texts)`,
which returns the contents of the files of a Classifier by suffix, with texts that describe it inside. One that needs
more than the network has `prepare(run, options)`, which returns this function, in its place. The yaml beside it names
the `runtime` whose packages it needs, and describes `input` and `outputs` for the card.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avatar_bench.config.entries import find_entry
from avatar_bench.errors import CheckpointError
from avatar_bench.files.hashes import sha256_of_bytes
from avatar_bench.models.checkpoint import CARD_KEY
from avatar_bench.models.classifier import Classifier
from avatar_bench.models.model_card import PROVENANCE_KEY

_TOLERANCE = 1e-4  # between the outputs of an exported network and torch: absolute below 1, relative above


def describe_network(classifier: Classifier, provenance: Mapping[str, Any]) -> dict[str, str]:
    """Return card and provenance of a network as texts of JSON, which each format contains."""
    metadata = {CARD_KEY: classifier.card.plain(), PROVENANCE_KEY: dict(provenance)}
    return {name: json.dumps(value, ensure_ascii=False, allow_nan=False) for name, value in metadata.items()}


def describe_export(
    classifier: Classifier, provenance: Mapping[str, Any], file: Path, contents: Mapping[str, bytes]
) -> str:
    """Return the description of an exported file with the contents of its files by suffix, as readable JSON."""
    suffix = file.suffix.lower()
    description: dict[str, Any] = {"file": file.name, "sha256": sha256_of_bytes(contents[suffix])}
    for other in contents.keys() - {suffix}:
        description["weights"] = {"file": file.with_suffix(other).name, "sha256": sha256_of_bytes(contents[other])}
    about = find_entry("export_format", suffix[1:]).about
    description |= {key: about[key] for key in ("input", "outputs") if key in about}
    description["steps"] = list_steps(classifier.card.preprocessing)
    description |= {CARD_KEY: classifier.card.plain(), PROVENANCE_KEY: dict(provenance)}
    return json.dumps(description, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def list_steps(preprocessing: Mapping[str, Any]) -> list[str]:
    """Return what is done to a file before the network sees it and after, step by step, for programs of others."""
    size, shape = preprocessing["size"], "the image"
    steps = [
        "decode to 8-bit RGB: the upper 8 bits of 16, the first frame of an animation; ignore colour profiles",
        "turn the image upright as its EXIF states, and put a transparent one on white",
    ]
    if preprocessing.get("mask"):
        steps.append("paint what preprocessing.mask states")
    if preprocessing["equalise"]:
        steps.append("re-encode it as avatar_bench.data.equalise does: side and JPEG quality depend on its pixels")
    if preprocessing["resize"] == "crop":
        steps.append("keep the centred square")
    elif preprocessing["resize"] == "pad":
        shape = f"the image, to {size} pixels on its longer side and round(side * {size} / longer) on the other,"
    steps.append(
        f"resize {shape} to {size} x {size} in two steps, each rounded to 8 bits: cv2.INTER_AREA for the sides that "
        "shrink, then cv2.INTER_CUBIC for those that grow"
    )
    if preprocessing["resize"] == "pad":
        steps[-1] = steps[-1].replace(f" to {size} x {size} in", " in")
        steps.append(
            f"put it in the middle of a white square of {size} x {size}, at floor(space / 2) from top and left"
        )
    return [
        *steps,
        "(value / 255 - mean) / std by channel, in the order R, G, B: inside .onnx and .xml, by you for .safetensors",
        "probabilities: softmax(logits / temperature)",
    ]


def draw_images(classifier: Classifier) -> Tensor:
    """Return images of noise, uint8 (3, 3, S, S), on which the outputs of an exported network are compared."""
    size = int(classifier.card.preprocessing["size"])
    return torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def refuse_different(classifier: Classifier, images: Tensor, outputs: Sequence[NDArray[np.float32]]) -> None:
    """Raise CheckpointError if the logits or probabilities of an exported network differ from those of torch."""
    with torch.inference_mode():
        logits = classifier(images)[0]
    expected = [logits.numpy(), torch.softmax(logits / classifier.card.temperature, dim=1).numpy()]
    pairs = zip(outputs, expected, strict=True)
    distance = max(float((np.abs(got - want) / np.maximum(1, np.abs(want))).max()) for got, want in pairs)
    if not distance <= _TOLERANCE:
        raise CheckpointError(f"The outputs of the exported network differ from torch's by {distance:.2g}.")
