"""Run: a trained classifier with its folder, its data and its cached Predictions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from avatar_bench.data.datamodule import ReadableImages, evaluation_loader, loader, targets_of
from avatar_bench.data.guards import shared_pictures
from avatar_bench.data.manifest import Dataset, read_dataset, read_split
from avatar_bench.data.transforms import Preprocessing
from avatar_bench.errors import CheckpointError, ConfigError, DataError, GuardError
from avatar_bench.models.classifier import Card, Classifier, read_checkpoint
from avatar_bench.models.training import checksum_of, quiet, verify
from avatar_bench.predictions import Predictions, strings
from avatar_bench.records import folder_name, locate, read_record
from avatar_bench.results import Result


@dataclass
class Run:
    """Hold one checkpoint and, where it lies in a run folder, the folder's record.

    `allow` names guards that the user has turned off; `device` and `workers` say where predictions are made.
    """

    checkpoint: Path
    folder: Path | None = None
    record: dict[str, Any] = field(default_factory=dict)
    allow: frozenset[str] = frozenset()
    device: str = "auto"
    workers: int = 2
    batch_size: int = 32
    _compared: set[str] = field(default_factory=set, repr=False, compare=False)  # sets found apart from training

    @classmethod
    def open(cls, path: str | Path, **options: Any) -> Run:
        """Open a run folder (its best checkpoint) or a .ckpt file; raise CheckpointError where there is none."""
        checkpoint, folder = locate(Path(path))
        return cls(checkpoint, folder, read_record(folder) if folder else {}, **options)

    @cached_property
    def card(self) -> Card:
        """Give the label contract that the checkpoint holds."""
        verify(self.checkpoint)
        return Card.from_checkpoint(read_checkpoint(self.checkpoint), self.checkpoint)

    @cached_property
    def classifier(self) -> Classifier:
        """Give the network, in eval mode, on the run's device."""
        quiet()
        self.preprocessing  # noqa: B018  # verifies the file and what it says first
        classifier = Classifier.load(self.checkpoint).to(self._device)
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
        return checksum_of(self.checkpoint)

    @cached_property
    def images(self) -> Dataset | None:
        """Give every image that the run used, with its split; None for a checkpoint outside a run folder."""
        if self.folder is None or not (self.folder / "split.csv").is_file():
            return None
        return read_split(self.folder / "split.csv", Path(self.record["data"]["root"]))

    def dataset(self, name: str) -> Dataset:
        """Give a set by name: test, val, calibration, train, blind, or an out-of-domain set of the run's data.

        Raises ConfigError where the run has no such set, DataError where its pictures are gone.
        """
        data = self.record.get("data", {})
        if name in ("train", "val", "calibration", "test"):
            if self.images is None:
                raise ConfigError(
                    f"split={name}: {self.checkpoint} lies in no run folder, so its own data is not known.",
                    "Say what to evaluate on: data=folder data.root=DIR, or data=manifest data.manifest=FILE",
                )
            part = self.images.part(name)
            if not len(part):
                raise DataError(f"{self.name} has no {name} images.", "See its split.csv.")
            return part
        others = {**data.get("ood", {}), **({"blind": data["blind"]} if data.get("blind") else {})}
        if name not in others:
            known = ["test", "val", "calibration", *others]
            raise ConfigError(f"split={name}: the run has no such set.", f"Expected one of {', '.join(known)}.")
        return read_dataset(Path(others[name]), name)

    def predictions(self, dataset: Dataset) -> Predictions:
        """Give the Predictions of a dataset, in its order; computed once and kept in the run folder.

        Raises GuardError where labels are not among the run's classes, or training images are among the dataset's.
        """
        self._guard_classes(dataset)
        self._guard_overlap(dataset)
        self._guard_near(dataset)
        kept = self._cache_file(dataset)
        if kept is not None and kept.is_file():
            return Predictions.load(kept)
        predictions = self._compute(dataset)
        if kept is not None:
            kept.parent.mkdir(exist_ok=True)
            predictions.save(kept)
        return predictions

    def predict(self, paths: str | Path | Iterable[str | Path], calibrated: bool = True) -> pd.DataFrame:
        """Give a verdict on each picture file, in order.

        Columns: path, status ("ok" or "error"), reason, prediction, confidence, and prob_<class> for each class.
        A file that cannot be used costs its row. With `calibrated`, probabilities are scaled by the temperature.
        """
        files = [paths] if isinstance(paths, (str, Path)) else list(paths)
        columns = verdict_columns(self.classes)
        frames = list(self.verdicts([str(file) for file in files], calibrated))
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)

    def verdicts(self, paths: Sequence[str], calibrated: bool = True, precision: str = "32") -> Iterator[pd.DataFrame]:
        """Give the rows of `predict` batch by batch, in order; precision is "32", "bf16" or "16"."""
        images = ReadableImages(
            [Path(path) for path in paths], np.full(len(paths), -1, dtype=np.int64), self.preprocessing
        )
        temperature = self.temperature if calibrated else 1.0
        batches = loader(images, self.batch_size, self._workers(len(paths)), collate_fn=list)
        for batch in batches:
            good = [item for item in batch if "image" in item]
            logits = np.zeros((0, len(self.classes)), dtype=np.float32)
            if good:
                logits, _ = self._forward(torch.stack([item["image"] for item in good]), precision)
            files = [(paths[item["row"]], item.get("reason", "")) for item in batch]
            yield _verdict_rows(files, logits, self.classes, temperature)

    def results(self, block: str, name: str = "test") -> Result:
        """Read the Result of a block on a set from the run folder."""
        if self.folder is None:
            raise CheckpointError(f"{self.checkpoint} lies in no run folder, so it has no results.")
        return Result.load(self.folder / "evaluation" / folder_name(name) / block)

    def _compute(self, dataset: Dataset) -> Predictions:
        workers = self._workers(len(dataset))
        batches = evaluation_loader(dataset, self.classes, self.preprocessing, self.batch_size, workers)
        outputs = [self._forward(batch["image"]) for batch in batches]
        return Predictions(
            classes=self.classes,
            logits=np.concatenate([logits for logits, _ in outputs]),
            embeddings=np.concatenate([embeddings for _, embeddings in outputs]),
            targets=targets_of(dataset, self.classes),
            paths=strings(dataset.frame["path"]),
            groups=strings(dataset.frame["group"]),
            sources=strings(dataset.frame["source"]),
            temperature=self.temperature,
        )

    def _forward(self, images: torch.Tensor, precision: str = "32") -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        kind = {"bf16": torch.bfloat16, "16": torch.float16}.get(precision)
        autocast = torch.autocast(self._device, dtype=kind or torch.bfloat16, enabled=kind is not None)
        with torch.inference_mode(), autocast:
            logits, embeddings = self.classifier(images.to(self._device, non_blocking=True))
        return logits.float().cpu().numpy(), embeddings.float().cpu().numpy()

    def _workers(self, n: int) -> int:
        # starting a worker costs more than decoding a few pictures
        return self.workers if n > 4 * self.batch_size else 0

    @property
    def _device(self) -> str:
        if self.device == "cpu" or not torch.cuda.is_available():
            return "cpu"
        return "cuda"

    def _cache_file(self, dataset: Dataset) -> Path | None:
        if self.folder is None:
            return None
        columns = dataset.frame[["path", "label", "group", "source"]].to_csv(index=False)
        preprocessing = json.dumps(self.card.preprocessing, sort_keys=True)
        key = [self.checkpoint_sha256, dataset.fingerprint, preprocessing, columns]
        return self.folder / "predictions" / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:24]}.npz"

    def _guard_classes(self, dataset: Dataset) -> None:
        unknown = sorted(set(dataset.classes) - set(self.classes))
        if unknown:
            raise GuardError(
                f"{dataset.name} has class {unknown[0]!r}, which this network does not know.",
                f"It knows: {', '.join(self.classes)}. Classes are matched by name:",
                "rename the folder or label, or leave those pictures out.",
            )

    def _guard_overlap(self, dataset: Dataset) -> None:
        if self.images is None or "overlap" in self.allow or dataset.name == "train":
            return
        train = self.images.part("train").frame
        for column, known, what in (
            ("sha256", set(train["sha256"]), "picture"),
            ("group", {*train["group"], *train["stated_group"]} - {""}, "group"),
        ):
            shared = dataset.frame[column].isin(known)
            if shared.any():
                raise GuardError(
                    f"{dataset.name} shares {int(shared.sum())} of {len(dataset)} pictures with the training data by "
                    f"{what}, first {dataset.frame.loc[shared, 'path'].iat[0]}.",
                    "Figures on pictures that the network has seen say nothing of new ones: take others out, or",
                    "say allow=[overlap], which is written beside the figures.",
                )

    def _guard_near(self, dataset: Dataset) -> None:
        if self.images is None or "near_duplicates" in self.allow or dataset.name == "train":
            return
        if dataset.fingerprint in self._compared:
            return
        train = self.images.part("train")
        # copies of the bytes are for _guard_overlap to tell
        found = [match for match in shared_pictures(train, dataset) if match.kind != "bytes"]
        if found:
            copies = len({match.right for match in found})
            raise GuardError(
                f"{copies} of {len(dataset)} pictures of {dataset.name} are near-duplicates of training pictures, "
                f"first {dataset.frame['path'].iat[found[0].right]} of {train.frame['path'].iat[found[0].left]}.",
                "Figures on pictures that the network has seen say nothing of new ones: take them out, or",
                "say allow=[near_duplicates], which is written beside the figures.",
            )
        self._compared.add(dataset.fingerprint)


def load(run: str | Path, **options: Any) -> Run:
    """Open a run folder or checkpoint file for use from Python: `load(run).predict(paths)`."""
    return Run.open(run, **options)


def predict(run: str | Path, paths: str | Path | Iterable[str | Path]) -> pd.DataFrame:
    """Give a verdict on each picture file: `load(run).predict(paths)`."""
    return load(run).predict(paths)


def set_threads(threads: int | None) -> None:
    """Let the network use so many threads; None: as many as torch takes of itself."""
    if threads:
        torch.set_num_threads(threads)


def verdict_columns(classes: Sequence[str]) -> list[str]:
    """Give the column names of a table of verdicts."""
    return ["path", "status", "reason", "prediction", "confidence", *(f"prob_{name}" for name in classes)]


def _verdict_rows(
    files: Sequence[tuple[str, str]], logits: NDArray[np.float32], classes: tuple[str, ...], temperature: float
) -> pd.DataFrame:
    """Lay the logits of the good files, and the reasons of the bad ones, into rows."""
    good = [path for path, reason in files if not reason]
    none = np.zeros((len(good), 0), dtype=np.float32)
    targets = np.full(len(good), -1, dtype=np.int64)
    seen = strings(good)
    verdicts = Predictions(classes, logits, none, targets, seen, seen, seen, temperature)
    probabilities = verdicts.probabilities
    rows, k = [], 0
    for path, reason in files:
        row: dict[str, Any] = {"path": path, "status": "error" if reason else "ok", "reason": reason}
        if not reason:
            row |= {"prediction": classes[int(verdicts.predicted[k])], "confidence": probabilities[k].max()}
            row |= {f"prob_{name}": probabilities[k, c] for c, name in enumerate(classes)}
            k += 1
        rows.append(row)
    return pd.DataFrame(rows, columns=verdict_columns(classes))
