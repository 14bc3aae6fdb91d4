"""Trained classifier with its folder, data sets and cached predictions."""

from __future__ import annotations

import math
import os
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import pandas as pd

import avatar_bench
from avatar_bench.console.terminal import escape_control_characters
from avatar_bench.console.warning_filters import keep_filters
from avatar_bench.data.corruptions import SLIGHT_CHANGES, Variation
from avatar_bench.data.dataset import Dataset
from avatar_bench.data.leakage import Leakage, UsedImages
from avatar_bench.data.transforms import Preprocessing
from avatar_bench.errors import BlockError, CheckpointError, ConfigError, DataError
from avatar_bench.files.hashes import sha256_of_file
from avatar_bench.files.paths import make_folder_name
from avatar_bench.files.table_io import read_csv
from avatar_bench.inference import copy_search
from avatar_bench.inference.foreign_predictor import ForeignPredictor
from avatar_bench.inference.network_predictor import NetworkPredictor
from avatar_bench.inference.prediction_table import (
    EMBEDDING,
    STABILITY_COLUMNS,
    PredictionTable,
    compare_versions,
    list_prediction_columns,
    merge_probabilities,
)
from avatar_bench.inference.predictor import DatasetPredictor, FileOptions, PredictionCache, Predictor
from avatar_bench.metrics.calibration import TemperatureFit
from avatar_bench.models.checkpoint import read_checkpoint, verify_checkpoint
from avatar_bench.models.model_card import Card
from avatar_bench.results.display import format_pairs
from avatar_bench.results.predictions import Predictions
from avatar_bench.results.result import AGAINST_FOLDER, METRICS_FILE, Result
from avatar_bench.results.view import View
from avatar_bench.runs import run_images
from avatar_bench.runs.record import (
    BEST_CHECKPOINT,
    METRIC,
    RECORD,
    SHARED_WEIGHTS,
    RunRecord,
    locate_checkpoint,
    read_config,
    read_record,
)
from avatar_bench.runs.run_images import apply_view, select_viewed
from avatar_bench.runs.saved_calibration import (
    BY_TRAIN,
    CALIBRATION,
    SOURCE_CALIBRATION,
    SavedCalibration,
    read_calibration,
)

if TYPE_CHECKING:
    from avatar_bench import Option
    from avatar_bench.models.classifier import Classifier
    from avatar_bench.runs.decisions import DecisionRule


@dataclass(repr=False)
class Run:
    """One checkpoint and, if it is in a run folder, the folder's record; opened by `load`, or by `open` with options.

    `checkpoint` is the file with the weights, `folder` the run folder, `record` its run.json. `allow` names
    guards that the user has turned off. `accelerator` ("auto", "cpu", "gpu") and `workers` apply to all predictions,
    `runtime` ("torch", "onnx", "openvino") to predictions on files, and `batch_size` is in images. `others` are sets
    besides the run's own: `{name: folder or manifest}`; "blind" is the external test set, the others are out-of-domain
    sets. `unanswered` counts the images left out of each set for lack of a prediction, `asked` names the sets that
    predictions were asked of, by fingerprint. `label` is the run's unique name
    in a comparison, `recipe` the name shared with runs that differ only in the seed. `results_folder` overrides the
    folder of its Results, by default in the run folder. `view` merges the classes of its data sets and predictions.
    `class_map` states the classes for which those of the network stand, by default themselves: `{"artificial":
    ["generated"], "human": ["drawing", "real"]}`. `update`, if not None: see `run_images.admit_changes`.
    """

    checkpoint: Path
    folder: Path | None = None
    record: RunRecord = field(default_factory=RunRecord)
    allow: frozenset[str] = frozenset()
    accelerator: str = "auto"
    runtime: str = "torch"
    workers: int = 2
    batch_size: int = 32
    others: dict[str, str] = field(default_factory=dict)
    label: str = ""
    recipe: str = ""
    results_folder: Path | None = None
    view: View = field(default_factory=View)
    class_map: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    update: bool | None = None
    unanswered: dict[str, int] = field(default_factory=dict, compare=False)  # images left out, by set
    asked: dict[str, str] = field(default_factory=dict, compare=False)  # names of predicted sets
    _sets: dict[str, Dataset] = field(default_factory=dict, compare=False)

    @classmethod
    def open(cls, path: str | Path, **options: Any) -> Run:
        """Open a run folder (its best checkpoint) or a .ckpt file; `options` are other fields, such as `allow`.

        Raises CheckpointError if there is none.
        """
        checkpoint, folder = locate_checkpoint(Path(path))
        return cls(checkpoint, folder, read_record(folder) if folder else RunRecord(), **options)

    @classmethod
    def from_predictor(cls, predictor: Predictor, folder: Path | None = None, **options: Any) -> Run:
        """Make the run of a predictor without a checkpoint; predictions and results are saved in `folder`, if given.

        A predictor has `classes` and `predict(images)`, which returns the probabilities (N, C) of images, each (H, W,
        3) uint8 RGB. `options` are other fields of the run. Saved predictions are used again if the predictor has the
        same `sha256`.
        """
        name = type(predictor).__name__
        run = cls(Path(name), folder, **options)
        run.card = Card(predictor.classes, name, {})
        run.predictor = ForeignPredictor(
            name=name, classes=tuple(predictor.classes), predictor=predictor, batch_size=run.batch_size
        )
        run.checkpoint_sha256 = getattr(predictor, "sha256", None) or uuid4().hex
        return run

    def __fspath__(self) -> str:
        """Return the path that opens it again."""
        return str(self.checkpoint if self.folder is None or self.is_other_checkpoint else self.folder)

    def __repr__(self) -> str:
        return f"Run({os.fspath(self)!r})"

    def __str__(self) -> str:
        """Return what it is and what it was evaluated by, in five lines."""
        about = dict(_describe(self))
        known = {name: f"{name} {value}" for name, value in about.items() if value is not None}
        lines = [
            f"run {about['run']}: {about['status'] or 'no record'}",
            ", ".join(known[name] for name in ("network", "mode", "seed") if name in known),
            known["classes"],
            ", ".join(f"{name} {about[name]:.3g}" for name in (METRIC, "temperature") if name in known),
            "; ".join(text for name, text in known.items() if name.startswith("results")) or "no results",
        ]
        return "\n".join(map(escape_control_characters, lines))

    def _repr_html_(self) -> str:
        return format_pairs(_describe(self))

    @cached_property
    def card(self) -> Card:
        """Return the card stored in the checkpoint; raise CheckpointError if the file is not the recorded one."""
        verify_checkpoint(self.checkpoint)
        is_recorded = self.folder is not None and self.checkpoint.name in (BEST_CHECKPOINT, SHARED_WEIGHTS)
        if is_recorded and self.record.checkpoint_sha256 not in (None, self.checkpoint_sha256):
            raise CheckpointError(
                f"{self.checkpoint} is damaged or belongs to another run: its SHA-256 is not the one in {RECORD}.",
                "Restore it, or train again.",
            )
        return Card.from_checkpoint(read_checkpoint(self.checkpoint), self.checkpoint)

    @property
    def name(self) -> str:
        """Return the path of the run's folder, or of its file without one, as it was opened; for messages."""
        return str(self.folder or self.checkpoint)

    @property
    def short_name(self) -> str:
        """Return the last two parts of the folder's path, or the file name; for what others may read."""
        return "/".join(self.folder.parts[-2:]) if self.folder else self.checkpoint.name

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the class names, of the view if there is one, else in the order of the network's outputs."""
        return tuple(self.merged_classes)

    @property
    def merged_classes(self) -> dict[str, tuple[str, ...]]:
        """Return the network's classes that each class of the view merges; raise ConfigError if it cannot answer it."""
        merged = self.view.assign(self.meanings)
        if merged is None:
            raise ConfigError(f"view={self.view.name}: the classes of {self.name} cannot be merged into it.")
        return merged

    @property
    def keeps_classes(self) -> bool:
        """Return whether the classes of the network are those of the data sets."""
        return self.merged_classes == {name: (name,) for name in self.card.classes}

    @property
    def meanings(self) -> dict[str, tuple[str, ...]]:
        """Return the classes for which each of the network's stands."""
        stated = self.class_map or self.record.class_map
        meanings = {name: stated.get(name, name) for name in self.card.classes}
        return {name: (meaning,) if isinstance(meaning, str) else tuple(meaning) for name, meaning in meanings.items()}

    def name_class(self, label: str) -> str:
        """Return the class, of the view if there is one, that a label belongs to; "" if the run does not know it."""
        name = self.view.find_class(label)
        return name if name in self.classes else ""

    @property
    def known_labels(self) -> tuple[str, ...]:
        """Return the labels that images of a set may have, without a view."""
        return tuple(dict.fromkeys(name for meaning in self.meanings.values() for name in meaning))

    @property
    def provides(self) -> frozenset[str]:
        """Return the needs of blocks that the run meets: in a view, not those of the network's own classes."""
        return self.predictor.provides | {"decisions"} | ({"own_classes"} if self.keeps_classes else set())

    @property
    def temperature(self) -> float:
        """Return the temperature, by which logits are divided: that of `calibrate`, else that of training."""
        return self.saved_calibration.temperature if self.saved_calibration else self.card.temperature

    @property
    def temperature_fit(self) -> TemperatureFit | None:
        """Return how the temperature was fitted, and whether it is applied; None if that is not recorded."""
        saved = self.saved_calibration
        return saved.fit if saved else TemperatureFit.parse(self.record.temperature_fit)

    @property
    def bias(self) -> tuple[float, ...]:
        """Return what is added to the logits of each class before they are divided, () for nothing."""
        return ()

    @property
    def is_other_checkpoint(self) -> bool:
        """Return whether it is a checkpoint file of a training, but not the best one."""
        return self.checkpoint.suffix == ".ckpt" and self.checkpoint.name != BEST_CHECKPOINT

    @cached_property
    def saved_calibration(self) -> SavedCalibration | None:
        """Return the calibration on a user's images; None if there is none, or for another checkpoint than the best.

        Raise CheckpointError if it is damaged or belongs to another checkpoint.
        """
        return self._read_calibration(with_decisions=False)

    @cached_property
    def decision_calibration(self) -> SavedCalibration | None:
        """Return the calibration that decisions are made of, on a user's images or else of training.

        None and errors are those of `saved_calibration`.
        """
        return self._read_calibration(with_decisions=True)

    @cached_property
    def source_calibration(self) -> SavedCalibration | None:
        """Return the calibration that decisions by source are made of; None and errors as above.

        Raise CheckpointError also if the run was calibrated anew since, so that its probabilities are others.
        """
        saved = self._read_calibration(with_decisions=True, name=SOURCE_CALIBRATION)
        if saved is not None and not math.isclose(saved.temperature, self.temperature, rel_tol=1e-9):
            raise CheckpointError(
                f"{self.folder}/{SOURCE_CALIBRATION} was made at temperature {saved.temperature:.4g}; that of the run "
                f"is now {self.temperature:.4g}.",
                "Calibrate by source again: avatar-bench calibrate unit=source",
            )
        return saved

    def _read_calibration(self, with_decisions: bool, name: str = CALIBRATION) -> SavedCalibration | None:
        if self.folder is None or self.is_other_checkpoint:
            return None
        saved = read_calibration(self.folder, with_decisions, name)
        if saved is None or (saved.by == BY_TRAIN and not with_decisions):
            return None
        if saved.checkpoint_sha256 != self.checkpoint_sha256 and self.card:  # which names changed weights first
            raise CheckpointError(
                f"{self.folder}/{name} was fitted on another checkpoint than that of the run.",
                "Calibrate the run again (avatar-bench calibrate), or delete the file.",
            )
        return saved

    @property
    def seed(self) -> int:
        """Return the seed of training."""
        return self.card.seed

    @property
    def preprocessing(self) -> Preprocessing:
        """Return the evaluation transform; the first member's of an ensemble, for displayed images."""
        return self.predictor.preprocessings[0]

    @cached_property
    def checkpoint_sha256(self) -> str:
        """Return the checkpoint file's SHA-256."""
        return sha256_of_file(self.checkpoint)

    @property
    def calibration_sha256(self) -> str | None:
        """Return the SHA-256 of the calibration on a user's images; None if there is none."""
        return self.saved_calibration.sha256 if self.saved_calibration else None

    @cached_property
    def images(self) -> Dataset | None:
        """Return every image that the run used, with its split; None for a checkpoint outside a run folder."""
        return run_images.read_own_images(self.folder, self.record)

    @cached_property
    def pretraining(self) -> Dataset | None:
        """Return the images used to pretrain the initial weights; None if the weights have no such list."""
        return run_images.read_image_list(self.folder, self.record, run_images.PRETRAINING_LIST)

    @cached_property
    def trained_on(self) -> Dataset | None:
        """Return the images that a run made elsewhere was trained on, whose files may be missing; None if unknown."""
        return run_images.read_image_list(self.folder, self.record, run_images.TRAINED_ON)

    @cached_property
    def seen_origins(self) -> frozenset[str]:
        """Return the sources of all images that training, its selection and its calibration have used."""
        return run_images.list_seen_origins(self)

    @property
    def units(self) -> dict[str, list[str]]:
        """Return the sources of one publisher, by its name."""
        split = (self.config.get("data") or {}).get("split") or {}
        return split.get("units") or {}

    @property
    def ancestors(self) -> list[dict[str, Any]]:
        """Return the earlier trainings of the initial weights, from the first to the last; [] if unknown."""
        steps = self.record.init.get("ancestors")
        return steps if isinstance(steps, list) else []

    @cached_property
    def leakage(self) -> Leakage:
        """Return the guard against images that the run has used."""
        used = UsedImages(
            self.known_labels,
            self.images,
            self.pretraining,
            self.trained_on,
            self.saved_calibration.images if self.saved_calibration else None,
            is_val_used=not self.record.probe,  # its C is chosen on training images
        )
        image_sets = [self.images] if self.images else []
        return Leakage([used], image_sets, self.allow, copy_search.search_aligned_copies)

    @cached_property
    def predictor(self) -> DatasetPredictor:
        """Return the predictor of the checkpoint's network."""
        source = copy(self)  # has no predictor, so that networks are released with the last reference to a run

        def read_calibration_images() -> Dataset | None:
            sides = set() if source.images is None else set(source.images.frame["split"])
            side = next((side for side in ("calibration", "val") if side in sides), None)  # a small val is not halved
            return run_images.read_set(source, side) if side else None

        return NetworkPredictor(
            **self._predictor_fields,
            preprocessings=(Preprocessing.from_dict(self.card.preprocessing),),
            sha256=self.checkpoint_sha256,
            load_network=source.load_network,
            read_calibration=read_calibration_images,
            accelerator=self.accelerator,
            runtime=self.runtime,
        )

    @property
    def _predictor_fields(self) -> dict[str, Any]:
        """Return what predictors of every kind are made of."""
        fields = {name: getattr(self, name) for name in ("name", "temperature", "bias", "workers", "batch_size")}
        return {**fields, "classes": self.card.classes}

    def load_network(self) -> Classifier:
        """Load the network of the checkpoint, in eval mode."""
        from avatar_bench.models.classifier import Classifier  # imports timm, which is slow

        return Classifier.load(self.checkpoint)

    @cached_property
    def cache(self) -> PredictionCache:
        """Return the cache of predictions, which runs no guard."""
        folder = self.folder / "predictions" if self.folder else None
        return PredictionCache(self.predictor, folder, self.checkpoint_sha256, self.card.preprocessing)

    def dataset(self, name: str) -> Dataset:
        """Read a set by name, once: test, val, calibration, train, blind, or an out-of-domain set.

        Classes are those of the view. In out-of-domain sets, images of classes unknown to the run become unlabelled.
        Raises ConfigError if the run has no such set, DataError if its images are missing.
        """
        if name not in self._sets:
            whole = run_images.admit_changes(self, run_images.read_set(self, name))
            self._sets[name] = whole.apply_view(self.view)
        return self._sets[name]

    @property
    def blind(self) -> Dataset | None:
        """Return the external test set (sources never used in training); None if the run has none."""
        return self.dataset("blind") if "blind" in run_images.find_further_sets(self) else None

    @property
    def ood(self) -> dict[str, Dataset]:
        """Return the out-of-domain sets by name, without those of which the view leaves no image."""
        datasets = {name: self.dataset(name) for name in run_images.find_further_sets(self) if name != "blind"}
        return {name: dataset for name, dataset in datasets.items() if len(dataset)}

    @property
    def used(self) -> dict[str, str]:
        """Return the digests of all sets read so far, by name."""
        return {name: dataset.digest for name, dataset in sorted(self._sets.items())}

    def predictions(self, dataset: Dataset) -> Predictions:
        """Return the Predictions of a dataset, in its order; computed once and cached in the run folder.

        Raises GuardError if the dataset has labels outside the run's classes, or overlaps with training images. In a
        view, the whole data set is predicted, so that nothing is computed again for another view.
        """
        return apply_view(self, [self.cache.predict(self._admit(dataset))], dataset)[0]

    def own_predictions(self, dataset: Dataset, variations: Sequence[Variation | None] = (None,)) -> list[Predictions]:
        """Return the Predictions of a dataset in the network's own classes, which no view merges, see `variations`."""
        computed = self.cache.predict_variations(self._admit(dataset), variations)
        return [select_viewed(predictions, dataset) for predictions in computed]

    def variations(self, dataset: Dataset, variations: Sequence[Variation]) -> list[Predictions]:
        """Return the Predictions of a dataset under each variation, without embeddings; cached like `predictions`.

        Each image is decoded once for several variations. Raises the same errors as `predictions`.
        """
        return apply_view(self, self.cache.predict_variations(self._admit(dataset), variations), dataset)

    def calibration(self, dataset: Dataset) -> Predictions:
        """Return the Predictions of the calibration half of val, the only data for fitting when `dataset` is evaluated.

        Raises BlockError if the run has no calibration images, GuardError if `dataset` shares images, near-duplicates
        or groups with them.
        """
        held_out = self._require_split("calibration")
        self.leakage.refuse_overlap_with_fit(dataset, held_out)
        return apply_view(self, [self.cache.predict(self._admit(held_out, is_fitting=True))], held_out)[0]

    def training(self) -> Predictions:
        """Return the Predictions of the training images, for statistics of in-domain data.

        Raises BlockError if the run does not know its training images.
        """
        return self.predictions(self._require_split("train"))

    def predict(
        self, paths: str | Path | Iterable[str | Path], calibrated: bool = True, precision: str = "auto"
    ) -> PredictionTable:
        """Predict the class of each image file, in order.

        Columns: path, status ("ok" or "error"), reason, prediction, confidence, and prob_<class> for each class.
        A file that cannot be read gets a row with status "error". With `calibrated`, logits are divided by the
        temperature. `precision` is "32", another one of the runtime, or "auto": the fastest on this machine.
        Raises ConfigError for arrays, which `predictor.predict` takes.
        """
        listed = [paths] if isinstance(paths, (str, Path)) else list(paths)
        if others := [type(path).__name__ for path in listed if not isinstance(path, (str, Path))]:
            raise ConfigError(f"run.predict takes paths of image files, not {others[0]}.")
        files = [str(file) for file in listed]
        with keep_filters():
            frames = list(self.predict_files(files, calibrated, self.predictor.resolve_precision(precision)))
        none = pd.DataFrame(columns=list_prediction_columns(self.classes))
        return PredictionTable(pd.concat(frames, ignore_index=True) if frames else none)

    def predict_files(
        self,
        paths: Sequence[str],
        calibrated: bool = True,
        precision: str = "32",
        rule: DecisionRule | None = None,
        embedded: bool = False,
        stability: bool = False,
    ) -> Generator[pd.DataFrame, None, None]:
        """Yield the table of predictions of image files batch by batch, see `DatasetPredictor.predict_files`.

        With a `rule`, tables have its columns too, and with `stability`, which needs "pixels" of the predictor, those
        of `compare_versions` under the SLIGHT_CHANGES. Of a score without a threshold, they name no class.
        """
        embedded_too = embedded or (rule is not None and rule.reference is not None)
        answers = ("prediction", "confidence", *(STABILITY_COLUMNS if stability else ()))
        undecided = dict.fromkeys(() if "decisions" in self.provides else answers, np.nan)
        changes = SLIGHT_CHANGES if stability else ()
        options = FileOptions(calibrated, precision, embedded_too, changes)
        with closing(self.predictor.predict_files(paths, options)) as tables:
            for table in tables:
                vectors = table.pop(EMBEDDING) if EMBEDDING in table else None
                merged = table if self.keeps_classes else merge_probabilities(table, self.merged_classes)
                if stability:
                    merged = compare_versions(merged, [change.tier for change in changes])
                    vectors = None if vectors is None else vectors[merged.index]
                merged = rule.extend(merged, vectors) if rule else merged
                yield merged.assign(**undecided, **({EMBEDDING: vectors} if embedded else {}))

    def evaluate(self, block: str, **options: Option) -> Result:
        """Run a block by the command `evaluate`, with its options, and return the saved Result.

        `run.evaluate("blind_test", split="blind")` is `evaluate(run, block="blind_test", split="blind")`, errors
        included.
        """
        results = avatar_bench.evaluate(self, block=block, **options)
        return next(result for result in results if result.block == block)

    def results(self, block: str, name: str = "test") -> Result:
        """Read the Result of a block on a set from the run folder.

        Raises CheckpointError outside a run folder, and DataError if the block has not been run on the set.
        """
        if self.folder is None:
            raise CheckpointError(f"{self.checkpoint} is not in a run folder, so it has no results.")
        folder = self.folder / "evaluation" / self.view.name_set(make_folder_name(name)) / block
        if not (folder / METRICS_FILE).is_file():
            raise DataError(
                f"{folder} has no result of {block} on {name}.", f'Evaluate it first: run.evaluate("{block}", ...).'
            )
        return Result.load(folder)

    def saved(self, block: str, name: str) -> Result | None:
        """Read the Result of a block on a set; None if it is missing, damaged, or of other weights or calibration."""
        folder = self._find_results(name)
        result = Result.load_if_complete(folder / block) if folder else None
        digests = {"checkpoint_sha256": self.checkpoint_sha256, "calibration_sha256": self.calibration_sha256}
        ours = result is not None and all(result.provenance.get(key) == digest for key, digest in digests.items())
        return result if ours else None

    def hash_results(self, name: str) -> dict[str, str]:
        """Compute the SHA-256 of the metrics.json of each block saved for a set, by the block's name."""
        folder = self._find_results(name)
        files = sorted(folder.glob(f"[!.]*/{METRICS_FILE}")) if folder else []
        return {file.parent.name: sha256_of_file(file) for file in files if file.parent.name != AGAINST_FOLDER}

    @cached_property
    def config(self) -> dict[str, Any]:
        """Return the options of training; {} if they are unknown."""
        return read_config(self.folder) if self.folder else {}

    @cached_property
    def history(self) -> pd.DataFrame | None:
        """Return the metrics.csv of the run, a row per epoch; None if it is missing or unreadable."""
        file = self.folder / "metrics.csv" if self.folder else None
        try:
            return read_csv(file) if file and file.is_file() else None
        except (OSError, ValueError):
            return None

    def _find_results(self, name: str) -> Path | None:
        """Return the folder of the Results on a set; None for a run without a folder."""
        root = self.results_folder or (self.folder and self.folder / "evaluation")
        return root and root / self.view.name_set(make_folder_name(name))

    def _admit(self, dataset: Dataset, is_fitting: bool = False) -> Dataset:
        """Return the whole data set, without a view, if the guard admits it."""
        is_training = dataset is self._sets.get("train")
        self.leakage.refuse(dataset.whole, is_training=is_training, is_fitting=is_fitting)
        self.asked[dataset.whole.fingerprint] = dataset.whole.name
        return dataset.whole

    def _require_split(self, split: str) -> Dataset:
        """Return one of the run's own splits; raise BlockError if it is unknown or empty."""
        if self.images is None or not len(self.images.select_split(split)):
            raise BlockError(f"{self.name}: it knows no {split} images of its own, but this block is fitted on them.")
        return self.dataset(split)


def _describe(run: Run) -> list[tuple[str, Any]]:
    results: dict[str, list[str]] = {}
    for file in sorted(run.folder.glob(f"evaluation/[!.]*/[!.]*/{METRICS_FILE}")) if run.folder else ():
        results.setdefault(f"results on {file.parents[1].name}", []).append(file.parent.name)
    about = [
        ("run", os.fspath(run)),
        ("status", run.record.status),
        ("network", run.card.backbone),
        ("mode", run.record.mode),
        ("classes", ", ".join(run.classes)),
        ("seed", run.record.seed),
        (METRIC, run.record.metrics.get(METRIC)),
        ("temperature", run.temperature),
    ]
    return [*about, *((name, ", ".join(blocks)) for name, blocks in results.items())]
