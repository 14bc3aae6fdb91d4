"""Prediction by one network, with torch or exported to another runtime, or by several predictors together."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from avatar_bench.config.entries import find_entry
from avatar_bench.console.machine import retain_freed_memory
from avatar_bench.console.warning_filters import suppress_framework_warnings
from avatar_bench.data.cache import ArrayCache
from avatar_bench.data.corruptions import Variation
from avatar_bench.data.dataset import Dataset
from avatar_bench.data.leakage import refuse_changed_files
from avatar_bench.data.loaders import build_image_dataset, build_loader, build_varied_loader, encode_targets
from avatar_bench.errors import ConfigError
from avatar_bench.inference.autotune import DTYPES, load_or_export, tune_inference
from avatar_bench.inference.prediction_table import EMBEDDING
from avatar_bench.inference.predictor import (
    DEFAULT_OPTIONS,
    DatasetPredictor,
    FileOptions,
    PredictionCache,
    choose_device,
    compute_logarithms,
)
from avatar_bench.inference.runtimes import (
    Engine,
    ExportedNetwork,
    find_runtime,
    refuse_missing_package,
)
from avatar_bench.metrics.averaging import AveragingWeights, average_logits
from avatar_bench.models.batch_norm_folding import fold_batch_norms
from avatar_bench.results.predictions import Predictions

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
        retain_freed_memory()
        classifier = self.load_network().to(self.device)
        classifier.card = replace(classifier.card, temperature=self.temperature)  # of a soup, or fitted since
        return classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    @cached_property
    def _folded(self) -> Classifier:
        return fold_batch_norms(self.module)

    @property
    def device(self) -> str:
        """Return the network's device, "cpu" or "cuda"; raise ConfigError if a requested GPU is missing."""
        return choose_device(self.accelerator) if self.runtime == "torch" else "cpu"

    def resolve_precision(self, precision: str) -> str:
        """Resolve "auto" to the fastest precision on this machine, if the runtime has a choice; return others as is."""
        if precision == "16" and self.runtime == "torch" and self.device == "cpu":
            raise ConfigError("precision=16 needs a GPU: on a CPU it is far too slow.", "Expected auto, 32 or bf16.")
        if precision != "auto":
            return precision
        if self.runtime != "torch" and "bf16" not in find_entry("runtime", self.runtime).about.get("precisions", ()):
            return "32"
        return tune_inference(self.device).precision

    def predict_variations(self, dataset: Dataset, variations: Sequence[Variation | None]) -> list[Predictions]:
        """Compute the Predictions of a dataset under each variation, see `DatasetPredictor.predict_variations`.

        Those of the images as they are come from embeddings that a training of the same body has cached, if all are;
        they are those of other batches, which may change logits by some 1e-6.
        """
        embeddings = self._load_embeddings(dataset) if list(variations) == [None] else None
        if embeddings is None:
            return super().predict_variations(dataset, variations)
        refuse_changed_files(dataset)
        starts = range(0, len(dataset), self.batch_size)  # in batches as those of passes, for the same digits
        batches = [torch.from_numpy(embeddings[start : start + self.batch_size]) for start in starts]
        with torch.inference_mode():
            logits = [self.module.classify(batch.to(self.device)).cpu().numpy() for batch in batches]
        return [self.describe(dataset, np.concatenate(logits), embeddings)]

    @cached_property
    def _features(self) -> ArrayCache | None:
        from avatar_bench.inference.feature_cache import find_feature_cache  # imports timm, which is slow

        is_linear = isinstance(self.module.net.get_classifier(), nn.Linear)  # type: ignore[operator]
        return find_feature_cache(self.module, self.device, "32-true") if is_linear else None

    def _load_embeddings(self, dataset: Dataset) -> NDArray[np.float32] | None:
        """Return the cached embeddings (N, D) of a dataset; None if one is missing."""
        loaded = []
        for digest in dataset.frame["sha256"]:
            if self._features is None or (array := self._features.load(digest)) is None:
                return None
            loaded.append(array)
        return np.stack(loaded) if loaded else None

    def iterate_images(
        self, dataset: Dataset, variations: Sequence[Variation | None]
    ) -> Iterator[tuple[int, Iterable[list[torch.Tensor]]]]:
        """Yield the size of each batch of a dataset, and its images under each variation."""
        workers, source = self.count_workers(len(dataset)), (dataset, self.classes, self.preprocessings[0])
        if varied := [variation for variation in variations if variation is not None]:
            items = (item["image"] for item in build_varied_loader(*source, varied, self.batch_size, workers))
            while batch := list(islice(items, self.batch_size)):
                yield len(batch), ([torch.stack(versions).movedim(-1, -3)] for versions in zip(*batch, strict=True))
        else:
            for images in build_loader(build_image_dataset(*source), self.batch_size, workers):
                yield len(images["image"]), [[images["image"]]]

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
            logits, embeddings = self._folded.compute(images[0].to(self.device, non_blocking=True))
        return logits.float().cpu().numpy(), embeddings.float().cpu().numpy()

    def load(self, precision: str = "32") -> list[str]:
        """Load the network and return notices to print; raise CheckpointError if it cannot be loaded."""
        if self.runtime != "torch":
            note = self._get_engine(precision)[1]
            return [note] if note else []
        self._folded  # noqa: B018
        return []

    def unload(self) -> None:
        """Release the network from memory; it is loaded again when needed."""
        for kept in ("module", "_folded"):
            self.__dict__.pop(kept, None)

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


@dataclass(eq=False, kw_only=True)
class EnsemblePredictor(DatasetPredictor):
    """Weighted mean of the probabilities of members and of their energies, see `average_logits`.

    Members may have their classes in another order. Their Predictions of data sets are taken from their caches.
    """

    members: Sequence[PredictionCache]
    mix: AveragingWeights

    def __post_init__(self) -> None:
        predictors = [member.predictor for member in self.members]
        self.provides = frozenset.intersection(*(predictor.provides for predictor in predictors)) - {"module"}
        self.computes_logits = all(predictor.computes_logits for predictor in predictors)

    def mark_answered(self, dataset: Dataset) -> NDArray[np.bool_]:
        """Return which images of a dataset every member has predictions of, (N,)."""
        return np.asarray(np.all([member.predictor.mark_answered(dataset) for member in self.members], axis=0))

    @property
    def seconds(self) -> float:
        """Return the total time of all passes of all networks so far."""
        return sum(member.predictor.seconds for member in self.members)

    @property
    def device(self) -> str:
        """Return the device, the same for all members."""
        return self.members[0].predictor.device

    def predict_variations(self, dataset: Dataset, variations: Sequence[Variation | None]) -> list[Predictions]:
        """Average the members' Predictions of a dataset under each variation."""
        varied = [member.predict_variations(dataset, variations) for member in self.members]
        ordered = [
            [predictions.reorder(self.classes) for predictions in of_members]
            for of_members in zip(*varied, strict=True)
        ]
        return [combine_predictions(of_members, self.mix, self.temperature) for of_members in ordered]

    def compute_logits(self, images: Sequence[torch.Tensor], precision: str = "32") -> NDArray[np.floating]:
        """Compute the average of the members' logits, (n, C), see `average_logits`."""
        pairs = self._iterate_inputs(images)
        return self._average([predictor.compute_logits(inputs, precision) for predictor, inputs in pairs])

    def compute_outputs(
        self, images: Sequence[torch.Tensor], precision: str = "32", embedded: bool = True
    ) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Compute the average of the members' logits, (n, C), and their embeddings side by side, (n, D)."""
        outputs = [predictor.compute_outputs(inputs, precision) for predictor, inputs in self._iterate_inputs(images)]
        logits, embeddings = zip(*outputs, strict=True)
        return self._average(logits), join_embeddings(embeddings)

    def predict_files(
        self, paths: Sequence[str], options: FileOptions = DEFAULT_OPTIONS
    ) -> Generator[pd.DataFrame, None, None]:
        """Yield the table of predictions of image files batch by batch; a file that any member fails on is an error."""
        if self.computes_logits:
            yield from super().predict_files(paths, options)
            return
        uncalibrated = options._replace(calibrated=False)
        parts = [member.predictor.predict_files(paths, uncalibrated) for member in self.members]
        for tables in zip(*parts, strict=True):
            failed = zip(*(table["reason"] for table in tables), strict=True)
            reasons = [next(filter(None, row), "") for row in failed]
            good = [not reason for reason in reasons]
            columns = [f"prob_{name}" for name in self.classes]
            logits = [compute_logarithms(table.loc[good, columns].to_numpy(np.float64)) for table in tables]
            averaged = average_logits(np.stack(logits), self.mix).astype(np.float32)
            seen = list(zip(tables[0]["path"], reasons, strict=True))
            embeddings = None
            if options.embedded and any(good):
                embeddings = join_embeddings([np.stack(list(table.loc[good, EMBEDDING])) for table in tables])
            yield self.tabulate(seen, averaged, options.calibrated, embeddings)

    def resolve_precision(self, precision: str) -> str:
        """Resolve "auto" as the members do, which have the same runtime and device."""
        return self.members[0].predictor.resolve_precision(precision)

    def load(self, precision: str = "32") -> list[str]:
        """Load every member's network and return notices to print."""
        return [note for member in self.members for note in member.predictor.load(precision)]

    def unload(self) -> None:
        """Release every network from memory."""
        for member in self.members:
            member.predictor.unload()

    def _iterate_inputs(self, images: Sequence[torch.Tensor]) -> Iterator[tuple[DatasetPredictor, list[torch.Tensor]]]:
        """Yield each member's predictor with its own inputs."""
        inputs = dict(zip(self.preprocessings, images, strict=True))
        for predictor in (member.predictor for member in self.members):
            yield predictor, [inputs[preprocessing] for preprocessing in predictor.preprocessings]

    def _average(self, logits: Sequence[NDArray[np.floating]]) -> NDArray[np.float32]:
        """Return the average of the members' logits, each (n, C) in the member's order of classes."""
        orders = [[member.predictor.classes.index(name) for name in self.classes] for member in self.members]
        reordered = [logit[:, order] for logit, order in zip(logits, orders, strict=True)]
        return average_logits(np.stack(reordered), self.mix).astype(np.float32)


def combine_predictions(members: Sequence[Predictions], mix: AveragingWeights, temperature: float) -> Predictions:
    """Average the Predictions of members on the same images with the same order of classes.

    Logits are those of `average_logits`; `has_logits` requires them of every member with positive weight. Embeddings
    are the members' concatenated, each scaled to unit length, so that no member dominates by the scale of its features.
    """
    weighted = [member for member, weight in zip(members, mix.weights, strict=True) if weight > 0]
    return replace(
        members[0],
        logits=average_logits(np.stack([member.logits for member in members]), mix).astype(np.float32),
        embeddings=join_embeddings([member.embeddings for member in members]),
        temperature=temperature,
        has_logits=all(member.has_logits for member in weighted),
        unscaled=None,
    )


def join_embeddings(members: Sequence[NDArray[np.floating]]) -> NDArray[np.float32]:
    """Return the members' embeddings, each scaled to unit length, side by side, (N, D)."""
    scaled = [vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12) for vectors in members]
    return np.concatenate(scaled, axis=1).astype(np.float32)
