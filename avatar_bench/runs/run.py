"""Trained classifier with its folder, data sets and cached predictions."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from avatar_bench.console.warning_filters import suppress_framework_warnings
from avatar_bench.data.corruptions import Variation
from avatar_bench.data.dataset import DATASET_SPLITS, Dataset, read_dataset, read_images, read_split
from avatar_bench.data.leakage import Leakage, UsedImages, refuse_changed_files, refuse_overlap_with_fit
from avatar_bench.data.loaders import (
    build_evaluation_loader,
    build_readable_loader,
    build_varied_loader,
    encode_targets,
    to_tensor,
)
from avatar_bench.data.splits import refuse_changed_split
from avatar_bench.data.transforms import Preprocessing
from avatar_bench.data.worker_processes import iterate_batches
from avatar_bench.errors import BlockError, CheckpointError, ConfigError, DataError
from avatar_bench.files.hashes import sha256_of_file
from avatar_bench.files.paths import make_folder_name
from avatar_bench.inference.precision_autotune import DTYPES, tune_inference
from avatar_bench.inference.prediction_table import list_prediction_columns, tabulate_predictions
from avatar_bench.models.checkpoint import read_checkpoint, verify_checkpoint
from avatar_bench.models.model_card import Card
from avatar_bench.results.predictions import Predictions, to_string_array
from avatar_bench.results.result import AGAINST_FOLDER, Result
from avatar_bench.runs.record import BEST_CHECKPOINT, RECORD, locate_checkpoint, read_config, read_record

if TYPE_CHECKING:
    from avatar_bench.inference.runtimes.engines import Engine, ExportedNetwork
    from avatar_bench.models.classifier import Classifier

PRETRAINING_LIST = "pretraining.csv"  # in a run folder: the images used to pretrain its initial weights
_N_QUANTISATION_IMAGES = 300  # images that determine the value ranges of int8 quantisation
_VARIATIONS_PER_PASS = 8  # variations of a batch in memory at once: 39 MB for 32 images of 224 px


@dataclass
class Run:
    """One checkpoint and, if it is in a run folder, the folder's record.

    `allow` names guards that the user has turned off. `accelerator` ("auto", "cpu", "gpu") and `workers` apply to all
    predictions, `runtime` ("torch", "onnx", "openvino") to predictions on files. `others` are sets besides the run's
    own: {name: folder or manifest}; "blind" is the external test set, the others are out-of-domain sets. `label` is
    the run's unique name in a comparison, `recipe` the name shared with runs that differ only in the seed.
    `results_folder` overrides the folder of its Results, by default in the run folder.
    """

    checkpoint: Path
    folder: Path | None = None
    record: dict[str, Any] = field(default_factory=dict)
    allow: frozenset[str] = frozenset()
    accelerator: str = "auto"
    runtime: str = "torch"
    workers: int = 2
    batch_size: int = 32
    others: dict[str, str] = field(default_factory=dict)
    label: str = ""
    recipe: str = ""
    results_folder: Path | None = None
    _sets: dict[str, Dataset] = field(default_factory=dict, repr=False, compare=False)
    # of a checkpoint without a run folder
    _memory_cache: dict[str, Predictions] = field(default_factory=dict, repr=False, compare=False)
    _seconds: float = field(default=0.0, init=False, repr=False, compare=False)  # of all passes
    _engines: dict[str, tuple[Engine, str]] = field(default_factory=dict, repr=False, compare=False)  # by precision

    @classmethod
    def open(cls, path: str | Path, **options: Any) -> Run:
        """Open a run folder (its best checkpoint) or a .ckpt file; raise CheckpointError if there is none."""
        checkpoint, folder = locate_checkpoint(Path(path))
        return cls(checkpoint, folder, read_record(folder) if folder else {}, **options)

    @cached_property
    def card(self) -> Card:
        """Return the card stored in the checkpoint; raise CheckpointError if the file is not the recorded one."""
        verify_checkpoint(self.checkpoint)
        is_recorded = self.folder is not None and self.checkpoint.name == BEST_CHECKPOINT
        if is_recorded and self.record.get("checkpoint_sha256") not in (None, self.checkpoint_sha256):
            raise CheckpointError(
                f"{self.checkpoint} is damaged or belongs to another run: its SHA-256 is not the one in {RECORD}.",
                "Restore it, or train again.",
            )
        return Card.from_checkpoint(read_checkpoint(self.checkpoint), self.checkpoint)

    @cached_property
    def classifier(self) -> Classifier:
        """Return the network, in eval mode, on the run's device."""
        from avatar_bench.models.classifier import Classifier  # imports timm, which is slow

        suppress_framework_warnings()
        self.preprocessing  # noqa: B018  # verifies the file and its card first
        classifier = Classifier.load(self.checkpoint).to(self.device)
        return classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    @property
    def name(self) -> str:
        """Return a short name: the last two parts of the folder's path, or the file name."""
        return "/".join(self.folder.parts[-2:]) if self.folder else self.checkpoint.name

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the class names in the order of the network's outputs."""
        return self.card.classes

    @property
    def temperature(self) -> float:
        """Return the temperature, by which logits are divided; fitted on the calibration half of val."""
        return self.card.temperature

    @property
    def seed(self) -> int:
        """Return the seed of training."""
        return self.card.seed

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """Return the evaluation transform."""
        return Preprocessing.from_dict(self.card.preprocessing)

    @cached_property
    def checkpoint_sha256(self) -> str:
        """Return the checkpoint file's SHA-256."""
        return sha256_of_file(self.checkpoint)

    @cached_property
    def images(self) -> Dataset | None:
        """Return every image that the run used, with its split; None for a checkpoint outside a run folder."""
        if self.folder is None or not (self.folder / "split.csv").is_file():
            return None
        root = (self.record.get("data") or {}).get("root")
        if not isinstance(root, str):
            raise CheckpointError(f"{self.folder / RECORD} has no data.root, the folder of the run's images.")
        images = read_split(self.folder / "split.csv", Path(root))
        refuse_changed_split(images, (self.record.get("split") or {}).get("fingerprint"), self.folder / "split.csv")
        return images

    @cached_property
    def pretraining(self) -> Dataset | None:
        """Return the images used to pretrain the initial weights; None if the weights have no such list."""
        init = self.record.get("init") or {}
        if self.folder is None or "images_sha256" not in init:
            return None
        file = self.folder / PRETRAINING_LIST
        if not file.is_file() or sha256_of_file(file) != init["images_sha256"]:
            raise CheckpointError(
                f"{file}, the list of images used to pretrain the run's initial weights, is missing or has changed.",
                "Restore it: without it, overlap with the pretraining data cannot be checked.",
            )
        return read_split(file, Path(str(init.get("root"))))

    @property
    def ancestors(self) -> list[dict[str, Any]]:
        """Return the earlier trainings of the initial weights, see models/pretrained_backbone; [] if unknown."""
        steps = (self.record.get("init") or {}).get("ancestors")
        return steps if isinstance(steps, list) else []

    @cached_property
    def leakage(self) -> Leakage:
        """Return the guard against images that the run has used."""
        used = UsedImages(self.classes, self.images, self.pretraining)
        return Leakage([used], [self.images] if self.images else [], self.allow)

    @property
    def device(self) -> str:
        """Return the network's device, "cpu" or "cuda"; raise ConfigError if a requested GPU is missing."""
        if self.accelerator == "cpu" or self.runtime != "torch":
            return "cpu"
        if torch.cuda.is_available():
            return "cuda"
        if self.accelerator == "gpu":
            raise ConfigError("accelerator=gpu: torch finds no GPU here.", "Remove the option, or use accelerator=cpu.")
        return "cpu"

    def dataset(self, name: str) -> Dataset:
        """Read a set by name, once: test, val, calibration, train, blind, or an out-of-domain set.

        In out-of-domain sets, images of classes unknown to the run become unlabelled. Raises ConfigError if the run
        has no such set, DataError if its images are missing.
        """
        if name not in self._sets:
            self._sets[name] = self._read(name)
        return self._sets[name]

    @property
    def blind(self) -> Dataset | None:
        """Return the external test set (sources never used in training); None if the run has none."""
        return self.dataset("blind") if "blind" in self._other_paths else None

    @property
    def ood(self) -> dict[str, Dataset]:
        """Return the out-of-domain sets by name."""
        return {name: self.dataset(name) for name in self._other_paths if name != "blind"}

    def place(self, name: str) -> Path | None:
        """Return the folder or manifest of a further set; None for the run's own splits."""
        path = self._other_paths.get(name)
        return Path(path) if path else None

    @property
    def used(self) -> dict[str, str]:
        """Return the digests of all sets read so far, by name."""
        return {name: dataset.digest for name, dataset in sorted(self._sets.items())}

    @property
    def inference_seconds(self) -> float:
        """Return the total time of inference so far in seconds, including decoding and variations."""
        return self._seconds

    def predictions(self, dataset: Dataset) -> Predictions:
        """Return the Predictions of a dataset, in its order; computed once and cached in the run folder.

        Raises GuardError if the dataset has labels outside the run's classes, or overlaps with training images.
        """
        self.leakage.refuse(dataset, is_training=dataset is self._sets.get("train"))
        return self._predict(dataset)

    def variations(self, dataset: Dataset, variations: Sequence[Variation]) -> list[Predictions]:
        """Return the Predictions of a dataset under each variation, without embeddings; cached like `predictions`.

        Each image is decoded once for several variations. Raises the same errors as `predictions`.
        """
        self.leakage.refuse(dataset, is_training=dataset is self._sets.get("train"))
        return self._predict_variations(dataset, variations)

    def calibration(self, dataset: Dataset) -> Predictions:
        """Return the Predictions of the calibration half of val, the only data for fitting when `dataset` is evaluated.

        Raises BlockError if the run has no calibration images, GuardError if `dataset` shares images or groups
        with them.
        """
        refuse_overlap_with_fit(dataset, self._require_split("calibration"))
        return self.predictions(self._require_split("calibration"))

    def training(self) -> Predictions:
        """Return the Predictions of the training images, for statistics of in-domain data.

        Raises BlockError if the run does not know its training images.
        """
        return self.predictions(self._require_split("train"))

    def inputs(self, dataset: Dataset, rows: Sequence[int] | NDArray[np.integer]) -> torch.Tensor:
        """Return images preprocessed for the network, uint8 (n, 3, S, S), on the CPU."""
        return torch.stack([to_tensor(self.preprocessing(dataset.image(int(row)))) for row in rows])

    def predict(
        self, paths: str | Path | Iterable[str | Path], calibrated: bool = True, precision: str = "auto"
    ) -> pd.DataFrame:
        """Predict the class of each image file, in order.

        Columns: path, status ("ok" or "error"), reason, prediction, confidence, and prob_<class> for each class.
        A file that cannot be read gets a row with status "error". With `calibrated`, logits are divided by the
        temperature. `precision` is "32", another one of the runtime, or "auto": the fastest on this machine.
        """
        precision = self.resolve_precision(precision)
        files = [paths] if isinstance(paths, (str, Path)) else list(paths)
        columns = list_prediction_columns(self.classes)
        frames = list(self.predict_rows([str(file) for file in files], calibrated, precision))
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)

    def resolve_precision(self, asked: str) -> str:
        """Resolve "auto" to the fastest precision on this machine, if the runtime has a choice; return others as is."""
        if asked == "16" and self.runtime == "torch" and self.device == "cpu":
            raise ConfigError("precision=16 needs a GPU: on a CPU it is far too slow.", "Expected auto, 32 or bf16.")
        if asked != "auto":
            return asked
        return "32" if self.runtime == "onnx" else tune_inference(self.device).precision

    def predict_rows(
        self, paths: Sequence[str], calibrated: bool = True, precision: str = "32"
    ) -> Generator[pd.DataFrame, None, None]:
        """Yield the rows of `predict` batch by batch, in order; `precision` is "32" or another one of the runtime."""
        reading = build_readable_loader(paths, self.preprocessings, self.batch_size, self._workers(len(paths)))
        temperature = self.temperature if calibrated else 1.0
        with iterate_batches(reading) as batches:  # images are decoded while the network loads
            self.load_model(precision)
            for batch in batches:
                none = np.zeros((0, len(self.classes)), dtype=np.float32)
                logits = self.logits(batch["images"], precision) if batch["images"] else none
                seen = [(paths[row], reason) for row, reason in batch["seen"]]
                yield tabulate_predictions(seen, logits, self.classes, temperature)

    @property
    def preprocessings(self) -> tuple[Preprocessing, ...]:
        """Return the distinct transforms of the run's networks."""
        return (self.preprocessing,)

    def logits(self, images: Sequence[torch.Tensor], precision: str = "32") -> NDArray[np.float32]:
        """Compute the logits (n, C) with the run's runtime; `images` are uint8 (n, 3, S, S), one per transform."""
        if self.runtime != "torch":
            return self._get_engine(precision)[0](images[0])
        return self._forward(images[0], precision)[0]

    def results(self, block: str, name: str = "test") -> Result:
        """Read the Result of a block on a set from the run folder."""
        if self.folder is None:
            raise CheckpointError(f"{self.checkpoint} is not in a run folder, so it has no results.")
        return Result.load(self.folder / "evaluation" / make_folder_name(name) / block)

    def saved(self, block: str, name: str) -> Result | None:
        """Read the Result of a block on a set; None if it is missing, damaged, or of another checkpoint."""
        folder = self._results_path
        result = Result.load_if_complete(folder / make_folder_name(name) / block) if folder else None
        ours = result is not None and result.provenance.get("checkpoint_sha256") == self.checkpoint_sha256
        return result if ours else None

    def hash_results(self, name: str) -> dict[str, str]:
        """Compute the SHA-256 of the metrics.json of each block saved for a set, by the block's name."""
        folder = self._results_path
        files = sorted((folder / make_folder_name(name)).glob("[!.]*/metrics.json")) if folder else []
        digests = {file.parent.name: sha256_of_file(file) for file in files}
        return {block: digest for block, digest in digests.items() if block != AGAINST_FOLDER}

    def load_model(self, precision: str = "32") -> list[str]:
        """Load the network and return notices to print; raise CheckpointError if it cannot be loaded."""
        if self.runtime != "torch":
            note = self._get_engine(precision)[1]
            return [note] if note else []
        self.classifier  # noqa: B018
        return []

    def unload_model(self) -> None:
        """Release the network from memory; it is loaded again when needed."""
        self.__dict__.pop("classifier", None)

    @cached_property
    def config(self) -> dict[str, Any]:
        """Return the options of training; {} if they are unknown."""
        return read_config(self.folder) if self.folder else {}

    @cached_property
    def history(self) -> pd.DataFrame | None:
        """Return the run's metrics.csv, one row per epoch; None if it is missing or unreadable."""
        file = self.folder / "metrics.csv" if self.folder else None
        try:
            return pd.read_csv(file) if file and file.is_file() else None
        except (OSError, ValueError):
            return None

    @property
    def _results_path(self) -> Path | None:
        return self.results_folder or (self.folder and self.folder / "evaluation")

    @property
    def _other_paths(self) -> dict[str, str]:
        data = self.record.get("data") or {}
        recorded = {**(data.get("ood") or {}), "blind": data.get("blind")}
        return {**{name: path for name, path in recorded.items() if isinstance(path, str) and path}, **self.others}

    def _read(self, name: str) -> Dataset:
        if name in DATASET_SPLITS:
            if self.images is None:
                raise ConfigError(
                    f"split={name}: {self.checkpoint} is not in a run folder, so its own data are unknown.",
                    "Choose the data to evaluate on: data=folder data.root=DIR, or data=manifest data.manifest=FILE",
                )
            part = self.images.select_split(name)
            if not len(part):
                raise DataError(f"{self.name} has no {name} images.", "See its split.csv.")
            return part
        if name not in self._other_paths:
            known = ["test", "val", "calibration", *self._other_paths]
            raise ConfigError(f"split={name}: the run has no such set.", f"Expected one of {', '.join(known)}.")
        path = Path(self._other_paths[name])
        if not path.exists():
            option = "data.blind" if name == "blind" else f"data.ood.{name}"
            raise DataError(f"{option}: {path} does not exist.", "Expected a folder of images or a manifest.")
        if name == "blind":
            return read_dataset(path, name)
        flat = path.is_dir() and not any(child.is_dir() for child in path.iterdir())
        dataset = read_images(path, name) if flat else read_dataset(path, name)
        label = dataset.frame["label"]
        return replace(dataset, frame=dataset.frame.assign(label=label.where(label.isin(self.classes), "")))

    def _require_split(self, split: str) -> Dataset:
        """Return one of the run's own splits; raise BlockError if it is unknown or empty."""
        if self.images is None or not len(self.images.select_split(split)):
            raise BlockError(f"{self.name}: its {split} images are unknown, but this block is fitted on them.")
        return self.dataset(split)

    def _predict(self, dataset: Dataset) -> Predictions:
        """Return the Predictions of a dataset, cached or computed, without running the guards."""
        key = self._build_cache_key(dataset)
        cached = self._load_cached(key, dataset)
        return cached or self._store_cached(key, self._compute(dataset))

    def _predict_variations(self, dataset: Dataset, variations: Sequence[Variation]) -> list[Predictions]:
        """Return the Predictions under each variation, cached or computed, without running the guards."""
        keys = {variation.key: self._build_cache_key(dataset, variation.key) for variation in variations}
        results = {name: cached for name, key in keys.items() if (cached := self._load_cached(key, dataset))}
        missing = [variation for variation in dict.fromkeys(variations) if variation.key not in results]
        for first in range(0, len(missing), _VARIATIONS_PER_PASS):
            chunk = missing[first : first + _VARIATIONS_PER_PASS]
            for variation, predictions in zip(chunk, self._compute_variations(dataset, chunk), strict=True):
                results[variation.key] = self._store_cached(keys[variation.key], predictions)
        return [results[variation.key] for variation in variations]

    def _compute(self, dataset: Dataset) -> Predictions:
        refuse_changed_files(dataset)
        workers = self._workers(len(dataset))
        batches = build_evaluation_loader(dataset, self.classes, self.preprocessing, self.batch_size, workers)
        with self._time_pass():
            outputs = [self._forward(batch["image"]) for batch in batches]
        logits, embeddings = (np.concatenate(parts) for parts in zip(*outputs, strict=True))
        return self._describe(dataset, logits, embeddings)

    def _compute_variations(self, dataset: Dataset, variations: Sequence[Variation]) -> list[Predictions]:
        refuse_changed_files(dataset)
        workers = self._workers(len(dataset))
        size = self.batch_size
        batches = build_varied_loader(dataset, self.classes, self.preprocessing, variations, size, workers)
        outputs: list[list[NDArray[np.float32]]] = [[] for _ in variations]
        with self._time_pass():
            for batch in batches:
                # one variation at a time: other images in the batch would change the last digits
                for index, logits in enumerate(outputs):
                    logits.append(self._forward(batch["image"][:, index])[0])
        none = np.zeros((len(dataset), 0), dtype=np.float32)
        return [self._describe(dataset, np.concatenate(logits), none) for logits in outputs]

    @contextmanager
    def _time_pass(self) -> Iterator[None]:
        """Add the duration of the body of the `with` to the inference time; the network is loaded before."""
        self.load_model()
        started = time.monotonic()
        yield
        self._seconds += time.monotonic() - started

    def _describe(self, dataset: Dataset, logits: NDArray[np.float32], embeddings: NDArray[np.float32]) -> Predictions:
        return Predictions(
            classes=self.classes,
            logits=logits,
            embeddings=embeddings,
            targets=encode_targets(dataset, self.classes),
            paths=to_string_array(dataset.frame["path"]),
            groups=to_string_array(dataset.frame["group"]),
            sources=to_string_array(dataset.frame["source"]),
            temperature=self.temperature,
        )

    def _forward(self, images: torch.Tensor, precision: str = "32") -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        kind = DTYPES.get(precision)
        autocast = torch.autocast(self.device, dtype=kind or torch.bfloat16, enabled=kind is not None)
        with torch.inference_mode(), autocast:
            logits, embeddings = self.classifier(images.to(self.device, non_blocking=True))
        return logits.float().cpu().numpy(), embeddings.float().cpu().numpy()

    def _get_engine(self, precision: str) -> tuple[Engine, str]:
        """Return the engine of the exported network and a notice to print, created once per precision."""
        if precision not in self._engines:
            from avatar_bench.inference.runtimes.engines import load_engine, refuse_missing_package

            refuse_missing_package(self.runtime, f"runtime={self.runtime}")
            network = self._load_export("int8" if precision == "int8" else "float")
            engine = load_engine(self.runtime, network, torch.get_num_threads(), precision)
            self._engines[precision] = engine, network.note
        return self._engines[precision]

    def _load_export(self, kind: str) -> ExportedNetwork:
        from avatar_bench.inference.export_cache import load_or_export

        self.card  # noqa: B018  # verifies the file first
        build = self._export if kind == "float" else self._quantise
        return load_or_export(self.runtime, self.checkpoint_sha256, kind, build)

    def _export(self) -> ExportedNetwork:
        from avatar_bench.inference.runtimes.engines import export_network

        network = export_network(self.runtime, self.classifier, self.preprocessing.size)
        self.unload_model()
        return network

    def _quantise(self) -> ExportedNetwork:
        from avatar_bench.inference.runtimes.openvino_ir import quantise_network

        calibration = self.images.select_split("calibration") if self.images else ()
        if not len(calibration):
            reason = f"precision=int8 takes value ranges from calibration images, and those of {self.name} are unknown."
            raise ConfigError(reason, "Expected a run folder. precision=bf16 needs no images.")
        dataset = self.dataset("calibration")
        sample = dataset.take(np.sort(np.random.default_rng(0).permutation(len(dataset))[:_N_QUANTISATION_IMAGES]))
        refuse_changed_files(sample)
        images, targets = self.inputs(sample, range(len(sample))), encode_targets(sample, self.classes)
        return quantise_network(self._load_export("float"), images, targets)

    def _workers(self, n: int) -> int:
        # starting a worker costs more than decoding a few images
        return self.workers if n > 4 * self.batch_size else 0

    def _build_cache_key(self, dataset: Dataset, variation: str = "") -> str:
        """Build the cache key of Predictions: a hash of everything on which they depend."""
        columns = dataset.frame[["path", "label", "group", "source"]].to_csv(index=False)
        preprocessing = json.dumps(self.card.preprocessing, sort_keys=True)
        key = [self.checkpoint_sha256, dataset.fingerprint, preprocessing, columns, *([variation] if variation else [])]
        return hashlib.sha256(repr(key).encode()).hexdigest()[:24]

    def _load_cached(self, key: str, dataset: Dataset) -> Predictions | None:
        if self.folder is None:
            return self._memory_cache.get(key)
        try:
            cached = Predictions.load(self.folder / "predictions" / f"{key}.npz")
        except CheckpointError:  # missing or damaged: computed again
            return None
        ours = cached.classes == self.classes and np.array_equal(cached.paths, to_string_array(dataset.frame["path"]))
        return cached if ours else None

    def _store_cached(self, key: str, predictions: Predictions) -> Predictions:
        if self.folder is None:
            self._memory_cache[key] = predictions
        else:
            (self.folder / "predictions").mkdir(exist_ok=True)
            predictions.save(self.folder / "predictions" / f"{key}.npz")
        return predictions


def set_threads(threads: int | None) -> None:
    """Set torch's number of threads; None keeps torch's default."""
    if threads:
        torch.set_num_threads(threads)
