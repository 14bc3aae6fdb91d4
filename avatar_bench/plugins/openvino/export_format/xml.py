"""OpenVINO's intermediate representation, with the weights in a .bin file."""

from __future__ import annotations

from collections.abc import Mapping

from avatar_bench.inference.export_formats import draw_images, refuse_different
from avatar_bench.models.classifier import Classifier
from avatar_bench.plugins.openvino.runtime import openvino


def encode(classifier: Classifier, texts: Mapping[str, str]) -> dict[str, bytes]:
    """Return weights and graph; raise CheckpointError if they compute other outputs than torch."""
    images = draw_images(classifier)
    model = openvino.convert_network(classifier, images.shape[-1], classifier.card.temperature)
    network = openvino.serialise_network(model, texts)
    refuse_different(classifier, images, openvino.compute_outputs(openvino.read_network(network), images))
    return {".bin": network.weights, ".xml": network.graph}
