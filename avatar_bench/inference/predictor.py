"""Predictors, which compute class probabilities of images, and the cache of their Predictions."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax

from avatar_bench.console.progress import open_bar
from avatar_bench.data.corruptions import Variation
from avatar_bench.data.dataset import Dataset
from avatar_bench.data.equalise import ImageArray
from avatar_bench.data.leakage import refuse_changed_files
from avatar_bench.data.loaders import ReadFiles, build_readable_loader, encode_targets, iterate_batches, to_tensor
from avatar_bench.data.transforms import Preprocessing
from avatar_bench.errors import BlockError, CheckpointError, ConfigError
from avatar_bench.files.hashes import sha256_of_text
from avatar_bench.inference.prediction_table import tabulate_predictions
from avatar_bench.results.predictions import Predictions, to_string_array

if TYPE_CHECKING:
    from avatar_bench.models.classifier import Classifier

MAX_SUM_ERROR = 0.02  # of the probabilities of an image, as two decimals cause; divided by their sum
_BYTES_PER_PASS = 2**27  # of the variations of a batch in memory at once: 27 of 32 images of 224 px
_BYTES_OF_NETWORKS = 2**30  # of other networks that variations are computed for at once
DecodedImages = Sequence[ImageArray]  # decoded, each (H, W, 3) RGB of any size


class FileOptions(NamedTuple):
    """What tables of predictions of files hold.

    With `calibrated`, logits are divided by the temperature; `precision` is "32" or another one of the runtime. With
    `embedded`, which needs "embeddings" of `provides`, tables have the column EMBEDDING. With `variations`, which need
    "pixels", as many rows follow those of a batch for each variation, of the same files in their order.
    """

    calibrated: bool = True
    precision: str = "32"
    embedded: bool = False
    variations: Sequence[Variation] = ()


DEFAULT_OPTIONS = FileOptions()


class Predictor(Protocol):
    """Source of class probabilities that does its own preprocessing.

    It may also have `embed(images) -> (N, D)`, and `sha256`, which changes with its predictions.
    """

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes."""

    def predict(self, images: DecodedImages) -> NDArray[np.float64]:
        """Compute the probabilities (N, C) of the classes, in their order; each row sums to 1."""


@dataclass(eq=False, kw_only=True)
class DatasetPredictor:
    """Predictor of whole data sets and of files, as a Run uses it.

    Logits are divided by the temperature; those of a score with a fitted threshold are shifted by `bias` before.
    `preprocessings` are the distinct transforms of its networks. `workers` processes read images in batches of
    `batch_size`. `provides` are the needs of blocks that it meets, see evaluation/block. `computes_logits` states
    whether it computes logits from preprocessed images; else images are passed on as they are, or looked up.
    `has_logits` is that of its Predictions.
    """

    name: str
    classes: tuple[str, ...]
    temperature: float = 1.0
    bias: tuple[float, ...] = ()  # one a class, or none
    preprocessings: tuple[Preprocessing, ...] = ()
    workers: int = 2
    batch_size: int = 32
    provides: frozenset[str] = frozenset({"predictions", "pixels", "variations", "embeddings"})
    computes_logits: bool = field(default=True, init=False)
    has_logits: bool = field(default=True, init=False)
    _seconds: float = field(default=0.0, init=False)

    @property
    def seconds(self) -> float:
        """Return the total time of all passes so far, including decoding and variations."""
        return self._seconds

    @property
    def device(self) -> str:
        """Return the networks' device, "cpu" or "cuda"; raise ConfigError if a requested GPU is missing."""
        return "cpu"

    @property
    def module(self) -> Classifier:
        """Return the network; raise BlockError if there is not exactly one."""
        raise BlockError(f"{self.name} has no single network.")

    def mark_answered(self, dataset: Dataset) -> NDArray[np.bool_]:
        """Return which images of a dataset have predictions, (N,): all but those that a foreign detector lacks."""
        return np.ones(len(dataset), dtype=bool)

    def predict_variations(self, dataset: Dataset, variations: Sequence[Variation | None]) -> list[Predictions]:
        """Compute the Predictions of a dataset under each variation, without embeddings; each image is decoded once.

        [None] stands for the images as they are, with embeddings. Raise GuardError if a file has changed.
        """
        return self.predict_together([self], dataset, variations)[0]

    def predict_together(
        self, predictors: Sequence[DatasetPredictor], dataset: Dataset, variations: Sequence[Variation | None]
    ) -> list[list[Predictions]]:
        """Compute the Predictions of several predictors that take the same images as this one, see above.

        The time of the passes, of which there is one, is counted as that of this predictor.
        """
        refuse_changed_files(dataset)
        for predictor in predictors:
            predictor.load()
        started = time.monotonic()
        outputs: list[list[list[tuple[NDArray[np.floating], NDArray[np.floating]]]]]
        outputs = [[[] for _ in variations] for _ in predictors]
        with open_bar(dataset.name, len(dataset) * len(variations)) as bar:
            for n, batches in self.iterate_images(dataset, variations):
                # one variation at a time: other images in the batch would change the last digits
                for images, variation, *outputs_of_images in zip(batches, variations, *outputs, strict=True):
                    for predictor, computed in zip(predictors, outputs_of_images, strict=True):
                        logits, embeddings = predictor.compute_outputs(images, embedded=variation is None)
                        computed.append((logits, embeddings if variation is None else embeddings[:, :0]))
                    bar.update(n)
        self._seconds += time.monotonic() - started
        results = []
        for predictor, by_variation in zip(predictors, outputs, strict=True):
            parts = [[np.concatenate(arrays) for arrays in zip(*computed, strict=True)] for computed in by_variation]
            results.append(
                [predictor.describe(dataset, logits, vectors.astype(np.float32)) for logits, vectors in parts]
            )
        return results

    def iterate_images(
        self, dataset: Dataset, variations: Sequence[Variation | None]
    ) -> Iterator[tuple[int, Iterable[Any]]]:
        """Yield the size of each batch of a dataset, and its images under each variation as `compute_outputs` takes."""
        raise NotImplementedError

    def compute_logits(self, images: Any, precision: str = "32") -> NDArray[np.floating]:
        """Compute the logits (n, C) of images with the runtime, see `compute_outputs`."""
        return self.compute_outputs(images, precision, embedded=False)[0]

    def compute_outputs(
        self, images: Any, precision: str = "32", embedded: bool = True
    ) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Compute logits (n, C) and embeddings (n, D), which may be empty unless they are `embedded`, with torch.

        `images` are uint8 (n, 3, S, S), one per preprocessing; those of a foreign predictor are as they were decoded.
        """
        raise NotImplementedError

    def predict(self, images: DecodedImages) -> NDArray[np.float64]:
        """Compute the probabilities (N, C) of decoded images of any size."""
        logits = self.compute_logits(self.preprocess(images)).astype(np.float64)
        return np.asarray(softmax(logits / self.temperature, axis=1))

    def preprocess(self, images: DecodedImages) -> list[torch.Tensor]:
        """Return decoded images as `compute_logits` takes them."""
        return [torch.stack([to_tensor(prepare(image)) for image in images]) for prepare in self.preprocessings]

    def predict_files(
        self, paths: Sequence[str], options: FileOptions = DEFAULT_OPTIONS
    ) -> Generator[pd.DataFrame, None, None]:
        """Yield the table of predictions of image files batch by batch, in order, see `tabulate_predictions`."""
        calibrated, precision, embedded, variations = options
        reading: Iterable[Any]
        if isinstance(paths, ReadFiles):
            reading = [paths.batch]
        else:
            workers = self.count_workers(len(paths))
            reading = build_readable_loader(paths, self.preprocessings, self.batch_size, workers, variations)
        with iterate_batches(reading) as batches:  # images are decoded while the network loads
            self.load(precision)
            for batch in batches:
                logits, embeddings = np.zeros((0, len(self.classes)), dtype=np.float32), None
                # one variation at a time: other images in the batch would change the last digits
                versions = [*zip(*[iter(batch["images"])] * len(self.preprocessings), strict=True)]
                if versions and embedded:
                    outputs = [self.compute_outputs(images, precision) for images in versions]
                    logits, embeddings = map(np.concatenate, zip(*outputs, strict=True))
                elif versions:
                    logits = np.concatenate([self.compute_logits(images, precision) for images in versions])
                seen = [(paths[row], reason) for row, reason in batch["seen"]]
                yield self.tabulate(seen * (1 + len(variations)), logits, calibrated, embeddings)

    def tabulate(
        self,
        files: Sequence[tuple[str, str]],
        logits: NDArray[np.floating],
        calibrated: bool,
        embeddings: NDArray[np.floating] | None = None,
    ) -> pd.DataFrame:
        """Return the table of predictions of (path, reason) pairs, see `tabulate_predictions`."""
        temperature = self.temperature if calibrated else 1.0
        return tabulate_predictions(files, self._shift(logits), self.classes, temperature, embeddings)

    @property
    def is_calibrated(self) -> bool:
        """Return whether a temperature or a threshold was fitted and is applied."""
        return self.temperature != 1 or any(self.bias)

    def adjust(self, predictions: Predictions) -> Predictions:
        """Return Predictions as they were computed, perhaps before a calibration, with the bias and the temperature."""
        if not self.bias and predictions.temperature == self.temperature:
            return predictions
        return replace(predictions, logits=self._shift(predictions.logits), temperature=self.temperature)

    def _shift(self, logits: NDArray[np.floating]) -> NDArray[np.floating]:
        return logits + np.array(self.bias) if self.bias else logits

    def prepare(self, image: ImageArray) -> ImageArray:
        """Preprocess a decoded image for display; an ensemble does it as its first member."""
        return self.preprocessings[0](image) if self.preprocessings else image

    def read_inputs(self, dataset: Dataset, rows: Sequence[int] | NDArray[np.integer]) -> torch.Tensor:
        """Return images preprocessed for the network, uint8 (n, 3, S, S), on the CPU."""
        return torch.stack([to_tensor(self.prepare(dataset.image(int(row)))) for row in rows])

    def resolve_precision(self, precision: str) -> str:
        """Resolve "auto" to the fastest precision on this machine, if the runtime has a choice; return others as is."""
        return "32" if precision == "auto" else precision

    def load(self, precision: str = "32") -> list[str]:
        """Load the networks and return notices to print; raise CheckpointError if one cannot be loaded."""
        return []

    def unload(self) -> None:
        """Release the networks from memory; they are loaded again when needed."""

    def count_workers(self, n: int) -> int:
        """Return the number of processes that read `n` images."""
        # starting a worker costs more than decoding a few images
        return self.workers if n > 4 * self.batch_size else 0

    def describe(self, dataset: Dataset, logits: NDArray[np.floating], embeddings: NDArray[np.float32]) -> Predictions:
        """Return the Predictions of a dataset with these logits and embeddings."""
        return Predictions(
            classes=self.classes,
            logits=logits,
            embeddings=embeddings,
            targets=encode_targets(dataset, self.classes),
            paths=to_string_array(dataset.frame["path"]),
            groups=to_string_array(dataset.frame["group"]),
            sources=to_string_array(dataset.frame["source"]),
            temperature=self.temperature,
            has_logits=self.has_logits,
        )


class PredictionCache:
    """Predictions of a predictor, each computed once and saved in a folder or, without one, kept in memory.

    They are saved as they are computed, so that a calibration leaves them valid, and returned calibrated.
    `sha256` identifies the predictor's weights, `preprocessing` is the one on its card. `beside` are caches that will
    be asked for the same variations of a dataset, by its digest, and whose predictors take the same images.
    """

    def __init__(
        self, predictor: DatasetPredictor, folder: Path | None, sha256: str, preprocessing: Mapping[str, Any]
    ) -> None:
        self.predictor = predictor
        self.folder = folder
        self._identity = [sha256, json.dumps(preprocessing, sort_keys=True)]
        self._memory: dict[str, Predictions] = {}
        self.beside: dict[str, Sequence[PredictionCache]] = {}

    def predict(self, dataset: Dataset) -> Predictions:
        """Return the Predictions of a dataset, loaded or computed."""
        return self.predict_variations(dataset, [None])[0]

    def predict_variations(self, dataset: Dataset, variations: Sequence[Variation | None]) -> list[Predictions]:
        """Return the Predictions of a dataset under each variation, loaded or computed; [None] is none."""
        keys = self._build_keys(dataset, variations)
        loaded = {variation: cached for variation, key in keys.items() if (cached := self._load(key, dataset))}
        missing = [variation for variation in keys if variation not in loaded]
        largest = max((preprocessing.size for preprocessing in self.predictor.preprocessings), default=224)
        most = max(1, _BYTES_PER_PASS // (3 * largest**2 * self.predictor.batch_size))
        for chunk in (missing[first : first + most] for first in range(0, len(missing), most)):
            if others := self._list_others(dataset, chunk):
                caches = [self, *others]
                together = self.predictor.predict_together([cache.predictor for cache in caches], dataset, chunk)
            else:
                caches, together = [self], [self.predictor.predict_variations(dataset, chunk)]
            for cache, computed in zip(caches, together, strict=True):
                for key, predictions in zip(cache._build_keys(dataset, chunk).values(), computed, strict=True):
                    cache._save(key, predictions)
            loaded |= zip(chunk, together[0], strict=True)
        return [self.predictor.adjust(loaded[variation]) for variation in variations]

    def _list_others(self, dataset: Dataset, variations: Sequence[Variation | None]) -> list[PredictionCache]:
        """Return the caches beside this one that lack a variation, as many as memory allows for their networks."""
        caches, size = [], 0
        others = self.beside.get(dataset.digest, ()) if None not in variations else ()
        for cache in (cache for cache in others if cache is not self):
            if not all(cache._load(key, dataset) for key in cache._build_keys(dataset, variations).values()):
                size += sum(weights.nbytes for weights in cache.predictor.module.state_dict().values())
                if size > _BYTES_OF_NETWORKS:
                    cache.predictor.unload()
                    break
                caches.append(cache)
        return caches

    def _build_keys(self, dataset: Dataset, variations: Sequence[Variation | None]) -> dict[Variation | None, str]:
        """Build the key of the Predictions under each variation: a hash of everything on which they depend."""
        columns = dataset.frame[["path", "label", "group", "source"]].to_csv(index=False)
        sha256, preprocessing = self._identity
        stated = [sha256, dataset.fingerprint, preprocessing, columns]
        return {
            variation: sha256_of_text(repr([*stated, *([variation.key] if variation else [])]))[:24]
            for variation in variations
        }

    def _load(self, key: str, dataset: Dataset) -> Predictions | None:
        if self.folder is None:
            return self._memory.get(key)
        try:
            cached = Predictions.load(self.folder / f"{key}.npz")
        except CheckpointError:  # missing or damaged: computed again
            return None
        paths = to_string_array(dataset.frame["path"])
        ours = cached.classes == tuple(self.predictor.classes) and np.array_equal(cached.paths, paths)
        return cached if ours else None

    def _save(self, key: str, predictions: Predictions) -> None:
        if self.folder is None:
            self._memory[key] = predictions
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            predictions.save(self.folder / f"{key}.npz")


def choose_device(accelerator: str) -> str:
    """Return the device of torch, "cpu" or "cuda"; raise ConfigError if a requested GPU is missing."""
    if accelerator == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if accelerator == "gpu":
        raise ConfigError("accelerator=gpu: torch finds no GPU here.", "Remove the option, or use accelerator=cpu.")
    return "cpu"


class ImproperError(ValueError):
    """Rows that are no probabilities: the number of them, the position of the first and its sum."""

    def __init__(self, n: int, row: int, total: float) -> None:
        super().__init__(f"{n} rows are no probabilities, first row {row}, whose sum is {total:.6g}")
        self.n, self.row, self.total = n, row, total


def normalise_rows(values: ArrayLike) -> NDArray[np.float64]:
    """Divide each row of probabilities (N, C) by its sum.

    Raise ImproperError if one has a number below 0 or none, or a sum that is not 1 within MAX_SUM_ERROR.
    """
    rows = np.asarray(values, dtype=np.float64)
    sums = rows.sum(axis=1)
    bad = np.flatnonzero((rows < 0).any(axis=1) | ~(np.abs(sums - 1) <= MAX_SUM_ERROR))
    if len(bad):
        raise ImproperError(len(bad), int(bad[0]), float(sums[bad[0]]))
    return np.asarray(rows / sums[:, None])


def compute_logarithms(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the logarithms of probabilities, finite also for 0."""
    return np.asarray(np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)))
