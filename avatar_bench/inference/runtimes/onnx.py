"""ONNX models of a classifier, computed by onnxruntime."""

from __future__ import annotations

import copy
import importlib
import os
from typing import Any

import numpy as np
import torch
from torch import nn

from avatar_bench.errors import ConfigError
from avatar_bench.inference.runtimes import (
    Engine,
    ExportedNetwork,
    ExportModule,
    explain_failed_export,
    suppress_warnings,
)
from avatar_bench.models.profiling import count_weight_bytes

MAX_WEIGHT_BYTES = 2**31 - 2**24  # protobuf's limit, less the rest of the graph


def export_network(classifier: nn.Module, size: int) -> ExportedNetwork:
    """Export a classifier, with logits only."""
    return ExportedNetwork(export_onnx(classifier, size))


def import_onnxruntime() -> Any:
    """Import onnxruntime, an optional dependency without types, which would report its use to Microsoft."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    return importlib.import_module("onnxruntime")


def load_engine(network: ExportedNetwork, threads: int, precision: str) -> Engine:
    """Build an engine for an exported network with a number of threads."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(network.graph, options, providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(session.run(None, {"images": images.cpu().numpy()})[0])


def export_onnx(classifier: nn.Module, size: int, temperature: float | None = None) -> bytes:
    """Export a classifier as an ONNX model that maps `images` (batch, 3, S, S) uint8 to `logits` (batch, C).

    With a temperature, the model also returns `probabilities` (batch, C), the softmax of logits / temperature, and
    `embeddings` (batch, D). Raise ConfigError if the weights exceed MAX_WEIGHT_BYTES, or torch cannot export the code.
    """
    if (weights := count_weight_bytes(classifier)) > MAX_WEIGHT_BYTES:
        raise ConfigError(
            f"The network has {weights / 1e9:.1f} GB of weights; an ONNX model holds at most 2 GB.",
            "Export it as .safetensors or .xml (OpenVINO), and predict with runtime=torch or openvino.",
        )
    answer = ExportModule(copy.deepcopy(classifier).cpu(), temperature, embeds=temperature is not None).eval()
    example = torch.zeros(2, 3, size, size, dtype=torch.uint8)  # with one image, the batch size would become constant
    with suppress_warnings(), explain_failed_export():
        program = torch.onnx.export(
            answer,
            (example,),
            dynamo=True,
            input_names=["images"],
            output_names=["logits", "probabilities", "embeddings"][: 1 if temperature is None else 3],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            verbose=False,
        )
        assert program is not None
        shape: Any = program.model.graph.inputs[0].shape
        assert not isinstance(shape[0], int), "its code fixes the number of images."
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()  # torch's stack traces, with folders of this machine
    return bytes(program.model_proto.SerializeToString())
