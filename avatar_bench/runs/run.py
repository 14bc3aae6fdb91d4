"""Run: a trained classifier with its folder, its data and its cached Predictions."""

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
from avatar_bench.data import leakage
from avatar_bench.data.corruptions import Variation
from avatar_bench.data.dataset import DATASET_SPLITS, Dataset, read_dataset, read_images, read_split
from avatar_bench.data.leakage import mark_shared_images, refuse_changed_files
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
from avatar_bench.inference.autotune import DTYPES, tune_inference
from avatar_bench.inference.prediction_table import list_prediction_columns, tabulate_predictions
from avatar_bench.models.checkpoint import read_checkpoint, verify_checkpoint
from avatar_bench.models.model_card import Card, has_outside_labels
from avatar_bench.results.predictions import Predictions, to_string_array
from avatar_bench.results.result import AGAINST_FOLDER, Result
from avatar_bench.runs.record import BEST_CHECKPOINT, RECORD, locate_checkpoint, read_config, read_record

if TYPE_CHECKING:
    from avatar_bench.inference.runtimes.engines import Engine, ExportedNetwork
    from avatar_bench.models.classifier import Classifier

PRETRAINING_LIST = "pretraining.csv"  # of a run folder: the images that the weights it began with had seen
_N_QUANTISATION_IMAGES = 300  # images from which the ranges of 8 bits are taken
_VARIATIONS_PER_PASS = 8  # variations of a batch that are held in memory: 39 MB for 32 images of 224 px


@dataclass
class Run:
    """Hold one checkpoint and, where it lies in a run folder, the folder's record.

    `allow` names guards that the user has turned off; `accelerator` ("auto", "cpu", "gpu") and `workers` say where
    predictions are made, `runtime` ("torch", "onnx", "openvino") by what verdicts are. `others` are sets beside the
    run's own: {name: folder or manifest}; "blind" is the blind set, the rest are out of domain. `label` names the run
    among those that it is compared with, `recipe` all of them that differ in seed alone; `judged` is the folder of its
    Results, else that in the run folder.
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
    _made: dict[str, Predictions] = field(default_factory=dict, repr=False, compare=False)  # where no folder keeps them
    _held_out: dict[tuple[Path, str], bool] = field(default_factory=dict, repr=False, compare=False)  # by root, digest
    _seen: dict[tuple[Path, str], int] = field(default_factory=dict, repr=False, compare=False)
    _compared: set[tuple[str, str]] = field(default_factory=set, repr=False, compare=False)  # (step, set) found apart
    _seconds: float = field(default=0.0, init=False, repr=False, compare=False)  # of all passes
    _engines: dict[str, tuple[Engine, str]] = field(default_factory=dict, repr=False, compare=False)  # by precision

    @classmethod
    def open(cls, path: str | Path, **options: Any) -> Run:
        """Open a run folder (its best checkpoint) or a .ckpt file; raise CheckpointError where there is none."""
        checkpoint, folder = locate_checkpoint(Path(path))
        return cls(checkpoint, folder, read_record(folder) if folder else {}, **options)

    @cached_property
    def card(self) -> Card:
        """Give the label contract that the checkpoint holds; raise CheckpointError where the file is another one's."""
        verify_checkpoint(self.checkpoint)
        stated = (
            self.record.get("checkpoint_sha256") if self.folder and self.checkpoint.name == BEST_CHECKPOINT else None
        )
        if stated not in (None, self.checkpoint_sha256):
            raise CheckpointError(
                f"{self.checkpoint} is damaged, or another run's: its SHA-256 is not the one in {RECORD}.",
                "Restore it, or train again.",
            )
        return Card.from_checkpoint(read_checkpoint(self.checkpoint), self.checkpoint)

    @cached_property
    def classifier(self) -> Classifier:
        """Give the network, in eval mode, on the run's device."""
        from avatar_bench.models.classifier import Classifier  # with timm, which takes longer than all else

        suppress_framework_warnings()
        self.preprocessing  # noqa: B018  # verifies the file and what it says first
        classifier = Classifier.load(self.checkpoint).to(self.device)
        return classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    @property
    def name(self) -> str:
        """Give a short name: the folder's last two parts, or the file's."""
        return "/".join(self.folder.parts[-2:]) if self.folder else self.checkpoint.name

    @property
    def classes(self) -> tuple[str, ...]:
        """Give the class names in the order of the network's outputs."""
        return self.card.classes

    @property
    def temperature(self) -> float:
        """Give the number that logits are divided by, fitted on the calibration half of val."""
        return self.card.temperature

    @property
    def seed(self) -> int:
        """Give the seed of training."""
        return self.card.seed

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """Give the evaluation transform."""
        return Preprocessing.from_dict(self.card.preprocessing)

    @cached_property
    def checkpoint_sha256(self) -> str:
        """Give the checkpoint file's SHA-256."""
        return sha256_of_file(self.checkpoint)

    @cached_property
    def images(self) -> Dataset | None:
        """Give every image that the run used, with its split; None for a checkpoint outside a run folder."""
        if self.folder is None or not (self.folder / "split.csv").is_file():
            return None
        root = (self.record.get("data") or {}).get("root")
        if not isinstance(root, str):
            raise CheckpointError(f"{self.folder / RECORD} does not say where the run's images lie.")
        images = read_split(self.folder / "split.csv", Path(root))
        refuse_changed_split(images, (self.record.get("split") or {}).get("fingerprint"), self.folder / "split.csv")
        return images

    @cached_property
    def pretraining(self) -> Dataset | None:
        """Give the images that the weights which training began with had seen; None where they had no such list."""
        init = self.record.get("init") or {}
        if self.folder is None or "images_sha256" not in init:
            return None
        file = self.folder / PRETRAINING_LIST
        if not file.is_file() or sha256_of_file(file) != init["images_sha256"]:
            raise CheckpointError(
                f"{file} is missing or changed, the list of the images that the run's first weights had seen.",
                "Restore it: which images the network has seen is not known without it.",
            )
        return read_split(file, Path(str(init.get("root"))))

    @property
    def ancestors(self) -> list[dict[str, Any]]:
        """Give what the weights that training began with had been through, see models/pretrained; [] if not known."""
        found = (self.record.get("init") or {}).get("ancestors")
        return found if isinstance(found, list) else []

    @property
    def is_pretrained_elsewhere(self) -> bool:
        """Say whether those weights were taught with labels on other images, or another split of them."""
        return has_outside_labels(self.ancestors, self.card.split_fingerprint, self.card.data_fingerprint)

    @property
    def n_missing_pretraining_images(self) -> int:
        """Give how many images of `pretraining` are gone: near-duplicates of them cannot be told."""
        return len(self.pretraining) - len(self.pretraining.available) if self.pretraining is not None else 0

    def count_pretraining_overlap(self, dataset: Dataset) -> int:
        """Give how many images of a dataset the pretraining had seen, see `mark_shared_images`, where that is let pass.

        It is of val and calibration, which train has warned of, and of any set with a guard turned off.
        """
        if not (self._holds_out(dataset) or self.allow & {"overlap", "near_duplicates"}):
            return 0
        key = dataset.root, dataset.digest
        if key not in self._seen:
            self._seen[key] = int(self._in_pretraining(dataset).sum())
        return self._seen[key]

    @property
    def device(self) -> str:
        """Say where the network computes: "cpu" or "cuda"; raise ConfigError where a GPU is asked for and missing."""
        if self.accelerator == "cpu" or self.runtime != "torch":
            return "cpu"
        if torch.cuda.is_available():
            return "cuda"
        if self.accelerator == "gpu":
            raise ConfigError("accelerator=gpu: torch finds no GPU here.", "Leave it out, or give accelerator=cpu.")
        return "cpu"

    def dataset(self, name: str) -> Dataset:
        """Give a set by name: test, val, calibration, train, blind, or an out-of-domain set; read once.

        A label of an out-of-domain set that the run does not know is no label. Raises ConfigError where the run has
        no such set, DataError where its images are gone.
        """
        if name not in self._sets:
            self._sets[name] = self._read(name)
        return self._sets[name]

    @property
    def blind(self) -> Dataset | None:
        """Give the set of sources that training never saw; None where the run has none."""
        return self.dataset("blind") if "blind" in self._other_paths else None

    @property
    def ood(self) -> dict[str, Dataset]:
        """Give the out-of-domain sets by name."""
        return {name: self.dataset(name) for name in self._other_paths if name != "blind"}

    def place(self, name: str) -> Path | None:
        """Give the folder or manifest of a set beside the run's own splits; None of these."""
        path = self._other_paths.get(name)
        return Path(path) if path else None

    @property
    def used(self) -> dict[str, str]:
        """Give the digest of every set that was asked for so far, by name."""
        return {name: dataset.digest for name, dataset in sorted(self._sets.items())}

    @property
    def inference_seconds(self) -> float:
        """Give how long sets of images took to go through the network so far, decoding and variations included."""
        return self._seconds

    def predictions(self, dataset: Dataset) -> Predictions:
        """Give the Predictions of a dataset, in its order; computed once and kept in the run folder.

        Raises GuardError where labels are not among the run's classes, or training images are among the dataset's.
        """
        self._guard(dataset, self._excused(dataset))
        return self._predict(dataset)

    def variations(self, dataset: Dataset, variations: Sequence[Variation]) -> list[Predictions]:
        """Give the Predictions of a dataset under each variation, without embeddings; each is kept like the others.

        An image is decoded once for several variations. Raises as `predictions` does.
        """
        self._guard(dataset, self._excused(dataset))
        return self._vary(dataset, variations)

    def calibration(self, dataset: Dataset) -> Predictions:
        """Give the Predictions of the calibration half of val: all that anything may be fitted on to judge `dataset`.

        Raises BlockError where the run has no such images, GuardError where `dataset` shares images or groups
        with them.
        """
        leakage.refuse_overlap_with_fit(dataset, self._own("calibration"))
        return self.predictions(self._own("calibration"))

    def training(self) -> Predictions:
        """Give the Predictions of the training images, for statistics of what is in the domain.

        Raises BlockError where the run does not know them.
        """
        return self.predictions(self._own("train"))

    def inputs(self, dataset: Dataset, rows: Sequence[int] | NDArray[np.integer]) -> torch.Tensor:
        """Give some images as the network takes them, uint8 (n, 3, S, S), on the CPU."""
        return torch.stack([to_tensor(self.preprocessing(dataset.image(int(row)))) for row in rows])

    def predict(
        self, paths: str | Path | Iterable[str | Path], calibrated: bool = True, precision: str = "auto"
    ) -> pd.DataFrame:
        """Give a verdict on each image file, in order.

        Columns: path, status ("ok" or "error"), reason, prediction, confidence, and prob_<class> for each class.
        A file that cannot be used costs its row. With `calibrated`, probabilities are scaled by the temperature.
        `precision` is "32", what else the runtime knows, or "auto": what a trial on this machine found faster.
        """
        precision = self.resolve_precision(precision)
        files = [paths] if isinstance(paths, (str, Path)) else list(paths)
        columns = list_prediction_columns(self.classes)
        frames = list(self.predict_rows([str(file) for file in files], calibrated, precision))
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)

    def resolve_precision(self, asked: str) -> str:
        """Give a precision; for "auto", what a trial on this machine found faster, where the runtime has the choice."""
        if asked == "16" and self.runtime == "torch" and self.device == "cpu":
            raise ConfigError("precision=16 is for a GPU: a CPU takes minutes for it.", "Expected auto, 32 or bf16.")
        if asked != "auto":
            return asked
        return "32" if self.runtime == "onnx" else tune_inference(self.device).precision

    def predict_rows(
        self, paths: Sequence[str], calibrated: bool = True, precision: str = "32"
    ) -> Generator[pd.DataFrame, None, None]:
        """Give the rows of `predict` batch by batch, in order; precision is "32", or what else the runtime knows."""
        reading = build_readable_loader(paths, self.preprocessings, self.batch_size, self._workers(len(paths)))
        temperature = self.temperature if calibrated else 1.0
        with iterate_batches(reading) as batches:  # images are decoded while the network is built
            self.load_model(precision)
            for batch in batches:
                none = np.zeros((0, len(self.classes)), dtype=np.float32)
                logits = self.logits(batch["images"], precision) if batch["images"] else none
                seen = [(paths[row], reason) for row, reason in batch["seen"]]
                yield tabulate_predictions(seen, logits, self.classes, temperature)

    @property
    def preprocessings(self) -> tuple[Preprocessing, ...]:
        """Give each way in which the run's networks want an image prepared, once."""
        return (self.preprocessing,)

    def logits(self, images: Sequence[torch.Tensor], precision: str = "32") -> NDArray[np.float32]:
        """Give the logits (n, C) of images, uint8 (n, 3, S, S) by each of `preprocessings`, by the run's runtime."""
        if self.runtime != "torch":
            return self._engine(precision)[0](images[0])
        return self._forward(images[0], precision)[0]

    def results(self, block: str, name: str = "test") -> Result:
        """Read the Result of a block on a set from the run folder."""
        if self.folder is None:
            raise CheckpointError(f"{self.checkpoint} lies in no run folder, so it has no results.")
        return Result.load(self.folder / "evaluation" / make_folder_name(name) / block)

    def saved(self, block: str, name: str) -> Result | None:
        """Read the Result of a block on a set; None where it is missing, damaged, or another checkpoint's."""
        place = self._results
        found = Result.load_if_complete(place / make_folder_name(name) / block) if place else None
        ours = found is not None and found.provenance.get("checkpoint_sha256") == self.checkpoint_sha256
        return found if ours else None

    def hash_results(self, name: str) -> dict[str, str]:
        """Give the SHA-256 of the metrics.json of each block that is saved of a set, by the block's name."""
        place = self._results
        files = sorted((place / make_folder_name(name)).glob("[!.]*/metrics.json")) if place else []
        digests = {file.parent.name: sha256_of_file(file) for file in files}
        return {block: digest for block, digest in digests.items() if block != AGAINST_FOLDER}

    def load_model(self, precision: str = "32") -> list[str]:
        """Read the network now, and give what is to be told of it; raise CheckpointError where it cannot be."""
        if self.runtime != "torch":
            note = self._engine(precision)[1]
            return [note] if note else []
        self.classifier  # noqa: B018
        return []

    def unload_model(self) -> None:
        """Let go of the network; it is read again when it is asked for."""
        self.__dict__.pop("classifier", None)

    @cached_property
    def config(self) -> dict[str, Any]:
        """Give the options that the run was trained with; empty where they are not known."""
        return read_config(self.folder) if self.folder else {}

    @cached_property
    def history(self) -> pd.DataFrame | None:
        """Give the run's metrics.csv, a row an epoch; None where there is none that can be read."""
        file = self.folder / "metrics.csv" if self.folder else None
        try:
            return pd.read_csv(file) if file and file.is_file() else None
        except (OSError, ValueError):
            return None

    @property
    def _results(self) -> Path | None:
        return self.results_folder or (self.folder and self.folder / "evaluation")

    @property
    def _other_paths(self) -> dict[str, str]:
        data = self.record.get("data") or {}
        stated = {**(data.get("ood") or {}), "blind": data.get("blind")}
        return {**{name: path for name, path in stated.items() if isinstance(path, str) and path}, **self.others}

    def _read(self, name: str) -> Dataset:
        if name in DATASET_SPLITS:
            if self.images is None:
                raise ConfigError(
                    f"split={name}: {self.checkpoint} lies in no run folder, so its own data is not known.",
                    "Say what to evaluate on: data=folder data.root=DIR, or data=manifest data.manifest=FILE",
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
        plain = path.is_dir() and not any(child.is_dir() for child in path.iterdir())
        found = read_images(path, name) if plain else read_dataset(path, name)
        label = found.frame["label"]
        return replace(found, frame=found.frame.assign(label=label.where(label.isin(self.classes), "")))

    def _own(self, split: str) -> Dataset:
        """Give a split of the run's own that a block needs."""
        if self.images is None or not len(self.images.select_split(split)):
            raise BlockError(f"{self.name}: its {split} images are not known, and this block is fitted on them.")
        return self.dataset(split)

    def _predict(self, dataset: Dataset) -> Predictions:
        """Give what `predictions` gives, of a dataset that the guards have let pass."""
        key = self._key(dataset)
        found = self._kept(key, dataset)
        return found or self._keep(key, self._compute(dataset))

    def _vary(self, dataset: Dataset, variations: Sequence[Variation]) -> list[Predictions]:
        """Give what `variations` gives, of a dataset that the guards have let pass."""
        keys = {variation.key: self._key(dataset, variation.key) for variation in variations}
        made = {name: found for name, key in keys.items() if (found := self._kept(key, dataset))}
        missing = [variation for variation in dict.fromkeys(variations) if variation.key not in made]
        for first in range(0, len(missing), _VARIATIONS_PER_PASS):
            some = missing[first : first + _VARIATIONS_PER_PASS]
            for variation, predictions in zip(some, self._compute_varied(dataset, some), strict=True):
                made[variation.key] = self._keep(keys[variation.key], predictions)
        return [made[variation.key] for variation in variations]

    def _compute(self, dataset: Dataset) -> Predictions:
        refuse_changed_files(dataset)
        workers = self._workers(len(dataset))
        batches = build_evaluation_loader(dataset, self.classes, self.preprocessing, self.batch_size, workers)
        with self._timed():
            outputs = [self._forward(batch["image"]) for batch in batches]
        logits, embeddings = (np.concatenate(parts) for parts in zip(*outputs, strict=True))
        return self._describe(dataset, logits, embeddings)

    def _compute_varied(self, dataset: Dataset, variations: Sequence[Variation]) -> list[Predictions]:
        refuse_changed_files(dataset)
        workers = self._workers(len(dataset))
        size = self.batch_size
        batches = build_varied_loader(dataset, self.classes, self.preprocessing, variations, size, workers)
        outputs: list[list[NDArray[np.float32]]] = [[] for _ in variations]
        with self._timed():
            for batch in batches:
                # one variation at a time: what a batch holds beside it would change the last digits
                for index, logits in enumerate(outputs):
                    logits.append(self._forward(batch["image"][:, index])[0])
        none = np.zeros((len(dataset), 0), dtype=np.float32)
        return [self._describe(dataset, np.concatenate(logits), none) for logits in outputs]

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Add the time of a pass to the others', the network being there before."""
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

    def _engine(self, precision: str) -> tuple[Engine, str]:
        """Give what computes with the exported network, and what is to be told of it."""
        if precision not in self._engines:
            from avatar_bench.inference.runtimes.engines import load_engine, refuse_missing_package

            refuse_missing_package(self.runtime, f"runtime={self.runtime}")
            network = self._exported("int8" if precision == "int8" else "float")
            engine = load_engine(self.runtime, network, torch.get_num_threads(), precision)
            self._engines[precision] = engine, network.note
        return self._engines[precision]

    def _exported(self, kind: str) -> ExportedNetwork:
        from avatar_bench.inference.export_cache import load_or_export

        self.card  # noqa: B018  # verifies the file first
        make = self._export if kind == "float" else self._quantise
        return load_or_export(self.runtime, self.checkpoint_sha256, kind, make)

    def _export(self) -> ExportedNetwork:
        from avatar_bench.inference.runtimes.engines import export_network

        network = export_network(self.runtime, self.classifier, self.preprocessing.size)
        self.unload_model()
        return network

    def _quantise(self) -> ExportedNetwork:
        from avatar_bench.inference.runtimes.openvino_ir import quantise_network

        known = self.images.select_split("calibration") if self.images else ()
        if not len(known):
            reason = f"precision=int8: {self.name} does not know its calibration images, from which ranges are taken."
            raise ConfigError(reason, "Expected a run folder. precision=bf16 needs no images.")
        dataset = self.dataset("calibration")
        some = dataset.take(np.sort(np.random.default_rng(0).permutation(len(dataset))[:_N_QUANTISATION_IMAGES]))
        refuse_changed_files(some)
        images, targets = self.inputs(some, range(len(some))), encode_targets(some, self.classes)
        return quantise_network(self._exported("float"), images, targets)

    def _workers(self, n: int) -> int:
        # starting a worker costs more than decoding a few images
        return self.workers if n > 4 * self.batch_size else 0

    def _key(self, dataset: Dataset, variation: str = "") -> str:
        """Give what Predictions are kept under: it changes with whatever they depend on."""
        columns = dataset.frame[["path", "label", "group", "source"]].to_csv(index=False)
        preprocessing = json.dumps(self.card.preprocessing, sort_keys=True)
        key = [self.checkpoint_sha256, dataset.fingerprint, preprocessing, columns, *([variation] if variation else [])]
        return hashlib.sha256(repr(key).encode()).hexdigest()[:24]

    def _kept(self, key: str, dataset: Dataset) -> Predictions | None:
        if self.folder is None:
            return self._made.get(key)
        try:
            found = Predictions.load(self.folder / "predictions" / f"{key}.npz")
        except CheckpointError:  # missing, or damaged: to be made again
            return None
        ours = found.classes == self.classes and np.array_equal(found.paths, to_string_array(dataset.frame["path"]))
        return found if ours else None

    def _keep(self, key: str, predictions: Predictions) -> Predictions:
        if self.folder is None:
            self._made[key] = predictions
        else:
            (self.folder / "predictions").mkdir(exist_ok=True)
            predictions.save(self.folder / "predictions" / f"{key}.npz")
        return predictions

    def _excused(self, dataset: Dataset) -> frozenset[str]:
        """Name the steps that may have seen a dataset: it is the run's own, whatever another set is called.

        The training part is for statistics of the domain; that pretraining had seen val, train has warned of.
        """
        if dataset is self._sets.get("train"):
            return frozenset({"training", "pretraining"})
        return frozenset({"pretraining"} if self._holds_out(dataset) else ())

    def _holds_out(self, dataset: Dataset) -> bool:
        """Say whether a dataset is of nothing but images of the run's own val and calibration, compared once."""
        key = dataset.root, dataset.digest
        if key not in self._held_out:
            self._held_out[key] = self._is_held_out(dataset)
        return self._held_out[key]

    def _is_held_out(self, dataset: Dataset) -> bool:
        if self.images is None or dataset.root != self.images.root:
            return False
        frame = self.images.frame[self.images.frame["split"].isin(["val", "calibration"])]
        return set(zip(dataset.frame["path"], dataset.frame["sha256"], strict=True)) <= set(
            zip(frame["path"], frame["sha256"], strict=True)
        )

    def _in_pretraining(self, dataset: Dataset) -> NDArray[np.bool_]:
        """Say which images of a dataset, (N,), the pretraining had seen."""
        return (
            np.zeros(len(dataset), bool) if self.pretraining is None else mark_shared_images(dataset, self.pretraining)
        )

    def _guard(self, dataset: Dataset, excused: frozenset[str]) -> None:
        leakage.refuse_unknown_classes(dataset, self.classes)
        if self.images is None:
            return
        seen = {"training": self.images.select_split("train"), "pretraining": self.pretraining}
        for what, images in seen.items():
            if images is None or what in excused:
                continue
            if "overlap" not in self.allow:
                leakage.refuse_overlap(dataset, images, what)
            if "near_duplicates" not in self.allow and (what, dataset.fingerprint) not in self._compared:
                # a run's own images that are gone end in an error, those of a pretraining in a warning beside figures
                leakage.refuse_near_duplicates(dataset, images if what == "training" else images.available, what)
            self._compared.add((what, dataset.fingerprint))


def set_threads(threads: int | None) -> None:
    """Let the network use so many threads; None: as many as torch takes of itself."""
    if threads:
        torch.set_num_threads(threads)
