"""Runtimes, which compute the logits of a classifier by torch or by an exported network."""

from __future__ import annotations

import copy
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from avatar_bench.config.entries import find_entries, find_entry
from avatar_bench.errors import ConfigError

Engine = Callable[[Tensor], NDArray[np.float32]]  # uint8 images (n, 3, S, S) to logits (n, C), returned once computed
TORCH_RUNTIMES = ("torch", "contiguous", "compile")


@dataclass(frozen=True)
class ExportedNetwork:
    """A network in the format of a runtime: its graph, separate weights for openvino, and a note for the user."""

    graph: bytes
    weights: bytes = b""
    note: str = ""


class Runtime(Protocol):
    """Module of a runtime for exported networks, in this folder or in runtime/ of a user's, that has these functions.

    The yaml beside it names the `packages` that must be installed and how to `install` them, the `exporters`, packages
    whose versions change an export, the `precisions` of `predict`, and the runtimes that it is `faster_than`. A runtime
    with int8 among its precisions also has `quantise_network(network, images, targets)`.
    """

    def export_network(self, classifier: nn.Module, size: int) -> ExportedNetwork:
        """Export a classifier of images of one size, with logits only."""

    def load_engine(self, network: ExportedNetwork, threads: int, precision: str) -> Engine:
        """Build an engine for an exported network with a number of threads."""


def list_runtimes() -> tuple[str, ...]:
    """Return the names of all runtimes, "torch" first."""
    return (*TORCH_RUNTIMES, *find_entries("runtime"))


def find_runtime(name: str) -> Any:
    """Return the Runtime of this name; raise ConfigError if there is none."""
    return find_entry("runtime", name).load()


def describe_versions(runtime: str) -> list[str]:
    """Return what determines the exported network of a runtime: versions of packages, and a user's code."""
    entry = find_entry("runtime", runtime)
    versions = [metadata.version(name) for name in entry.about.get("exporters", ["torch", "timm"])]
    return versions + ([] if entry.is_builtin else [entry.digest])


def find_missing_package(runtime: str) -> str:
    """Return the first package that a runtime needs and that is not installed, or ""."""
    needed = () if runtime in TORCH_RUNTIMES else find_entry("runtime", runtime).about.get("packages", ())
    return next((name for name in needed if importlib.util.find_spec(name) is None), "")


def refuse_missing_package(runtime: str, what: str) -> None:
    """Raise ConfigError if a package of a runtime is missing; `what` describes the option that needs it."""
    if absent := find_missing_package(runtime):
        how = find_entry("runtime", runtime).about.get("install", f"pip install {absent}")
        raise ConfigError(f"{what} needs {absent}, which is not installed.", str(how))


def prepare_engine(runtime: str, classifier: nn.Module, size: int) -> Callable[[int], Engine]:
    """Return a function that builds an engine for a number of threads; exports the network once if needed.

    "torch" computes as `predict` does; "contiguous" uses the channels-first memory format; "compile" uses
    torch.compile; others run an exported network on the CPU in 32 bits. Raises ConfigError if a package is missing.
    """
    refuse_missing_package(runtime, f"The runtime {runtime}")
    if runtime not in TORCH_RUNTIMES:
        chosen: Runtime = find_runtime(runtime)
        network = chosen.export_network(classifier, size)
        return lambda threads: chosen.load_engine(network, threads, "32")
    if runtime == "contiguous":
        classifier = copy.deepcopy(classifier).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    answer: Any = torch.compile(classifier) if runtime == "compile" else classifier

    def compute(images: Tensor) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(answer(images)[0].float().cpu().numpy())  # waits for a GPU

    return lambda threads: compute


@contextmanager
def explain_failed_export() -> Iterator[None]:
    """Raise ConfigError if torch cannot export the code of a network, such as a user's, inside the `with`."""
    try:
        yield
    except Exception as error:  # torch raises many types
        raise ConfigError(
            f"The network cannot be exported: {(str(error) or type(error).__name__).splitlines()[0]}",
            "Its code must work for any number of images: use x.shape[0], not len(x).",
        ) from error


class ExportModule(nn.Module):
    """A classifier that returns logits and, with a temperature, probabilities, then embeddings if it `embeds`."""

    def __init__(self, classifier: nn.Module, temperature: float | None, embeds: bool = False) -> None:
        super().__init__()
        for layer in classifier.modules():
            if hasattr(layer, "inplace"):  # with which exporters take a third longer for the same graph
                layer.inplace = False  # type: ignore[assignment]
        self.classifier = classifier
        self.temperature = temperature
        self.embeds = embeds

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        logits, embeddings = self.classifier(images)
        probabilities = () if self.temperature is None else (torch.softmax(logits / self.temperature, dim=1),)
        return (logits, *probabilities, *([embeddings] if self.embeds else []))


@contextmanager
def suppress_warnings() -> Iterator[None]:
    """Suppress log messages and warnings of an exporter, none of which needs action."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
