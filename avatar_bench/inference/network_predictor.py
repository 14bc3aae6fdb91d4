"""Prediction by one network, with torch or exported to another runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from avatar_bench.config.entries import find_entry
from avatar_bench.console.warning_filters import suppress_framework_warnings
from avatar_bench.data.corruptions import Variation
from avatar_bench.data.dataset import Dataset
from avatar_bench.data.leakage import refuse_changed_files
from avatar_bench.data.loaders import build_image_dataset, build_loader, build_varied_loader, encode_targets
from avatar_bench.errors import ConfigError
from avatar_bench.inference.autotune import DTYPES, tune_inference
from avatar_bench.inference.predictor import DatasetPredictor, choose_device
from avatar_bench.inference.runtimes import (
    Engine,
    ExportedNetwork,
    find_runtime,
    load_or_export,
    refuse_missing_package,
)

if TYPE_CHECKING:
    from avatar_bench.models.classifier import Classifier

_N_QUANTISATION_IMAGES = 300  # images that determine the value ranges of int8 quantisation


@dataclass(eq=False, kw_only=True)
class NetworkPredictor(DatasetPredictor):
    """Predictor of one network.

    `load_network` returns it in eval mode; `sha256` identifies its weights. `read_calibration` returns the images that
    determine value ranges of int8, None if they are unknown. `accelerator` is "auto", "cpu" or "gpu"; `runtime` is
    "torch" or, for predictions on files, the name of one for exported networks.
    """

    sha256: str
    load_network: Callable[[], Classifier]
    read_calibration: Callable[[], Dataset | None]
    accelerator: str = "auto"
    runtime: str = "torch"
    provides: frozenset[str] = DatasetPredictor.provides | {"module"}
    _engines: dict[str, tuple[Engine, str]] = field(default_factory=dict, init=False)  # with a notice, by precision

    @cached_property
    def module(self) -> Classifier:
        """Return the network, in eval mode, on the device."""
        suppress_framework_warnings()
        classifier = self.load_network().to(self.device)
        classifier.card = replace(classifier.card, temperature=self.temperature)  # of a soup, or fitted since
        return classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    @property
    def device(self) -> str:
        """Return the network's device, "cpu" or "cuda"; raise ConfigError if a requested GPU is missing."""
        return choose_device(self.accelerator) if self.runtime == "torch" else "cpu"

    def resolve_precision(self, asked: str) -> str:
        """Resolve "auto" to the fastest precision on this machine, if the runtime has a choice; return others as is."""
        if asked == "16" and self.runtime == "torch" and self.device == "cpu":
            raise ConfigError("precision=16 needs a GPU: on a CPU it is far too slow.", "Expected auto, 32 or bf16.")
        if asked != "auto":
            return asked
        if self.runtime != "torch" and "bf16" not in find_entry("runtime", self.runtime).about.get("precisions", ()):
            return "32"
        return tune_inference(self.device).precision

    def iterate_images(
        self, dataset: Dataset, variations: Sequence[Variation | None]
    ) -> Iterator[tuple[int, Sequence[list[torch.Tensor]]]]:
        """Yield the size of each batch of a dataset, and its images under each variation."""
        workers, source = self.count_workers(len(dataset)), (dataset, self.classes, self.preprocessings[0])
        if varied := [variation for variation in variations if variation is not None]:
            batches = build_varied_loader(*source, varied, self.batch_size, workers)
        else:
            batches = build_loader(build_image_dataset(*source), self.batch_size, workers)
        for batch in batches:
            images = batch["image"] if varied else batch["image"][:, None]
            yield len(images), [[images[:, index]] for index in range(len(variations))]

    def compute_logits(self, images: Sequence[torch.Tensor], precision: str = "32") -> NDArray[np.floating]:
        """Compute the logits (n, C) with the runtime; `images` is one batch, uint8 (n, 3, S, S)."""
        if self.runtime != "torch":
            return self._get_engine(precision)[0](images[0])
        return super().compute_logits(images, precision)

    def compute_outputs(
        self, images: Sequence[torch.Tensor], precision: str = "32", embedded: bool = True
    ) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Compute logits (n, C) and embeddings (n, D) with torch; `images` is one batch, uint8 (n, 3, S, S)."""
        kind = DTYPES.get(precision)
        autocast = torch.autocast(self.device, dtype=kind or torch.bfloat16, enabled=kind is not None)
        with torch.inference_mode(), autocast:
            logits, embeddings = self.module(images[0].to(self.device, non_blocking=True))
        return logits.float().cpu().numpy(), embeddings.float().cpu().numpy()

    def load(self, precision: str = "32") -> list[str]:
        """Load the network and return notices to print; raise CheckpointError if it cannot be loaded."""
        if self.runtime != "torch":
            note = self._get_engine(precision)[1]
            return [note] if note else []
        self.module  # noqa: B018
        return []

    def unload(self) -> None:
        """Release the network from memory; it is loaded again when needed."""
        self.__dict__.pop("module", None)

    def _get_engine(self, precision: str) -> tuple[Engine, str]:
        """Return the engine of the exported network and a notice to print, created once per precision."""
        if precision not in self._engines:
            refuse_missing_package(self.runtime, f"runtime={self.runtime}")
            network = self._load_export("int8" if precision == "int8" else "float")
            engine = find_runtime(self.runtime).load_engine(network, torch.get_num_threads(), precision)
            self._engines[precision] = engine, network.note
        return self._engines[precision]

    def _load_export(self, kind: str) -> ExportedNetwork:
        return load_or_export(self.runtime, self.sha256, kind, self._export if kind == "float" else self._quantise)

    def _export(self) -> ExportedNetwork:
        network: ExportedNetwork = find_runtime(self.runtime).export_network(self.module, self.preprocessings[0].size)
        self.unload()
        return network

    def _quantise(self) -> ExportedNetwork:
        dataset = self.read_calibration()
        if dataset is None:
            reason = f"precision=int8 takes value ranges from calibration images, and those of {self.name} are unknown."
            raise ConfigError(reason, "Expected a run folder. precision=bf16 needs no images.")
        sample = dataset.take(np.sort(np.random.default_rng(0).permutation(len(dataset))[:_N_QUANTISATION_IMAGES]))
        refuse_changed_files(sample)
        images, targets = self.read_inputs(sample, range(len(sample))), encode_targets(sample, self.classes)
        network = self._load_export("float")
        quantised: ExportedNetwork = find_runtime(self.runtime).quantise_network(network, images, targets)
        return quantised
