"""Runs that combine other runs by averaging their probabilities (ensemble) or their weights (soup)."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from avatar_bench.data.dataset import Dataset
from avatar_bench.data.leakage import Leakage, UsedImages
from avatar_bench.errors import CheckpointError
from avatar_bench.files.atomic_write import atomic_write
from avatar_bench.files.hashes import sha256_of_text
from avatar_bench.inference import copy_search
from avatar_bench.inference.network_predictor import EnsemblePredictor
from avatar_bench.inference.predictor import DatasetPredictor
from avatar_bench.metrics.averaging import AveragingWeights
from avatar_bench.metrics.calibration import TemperatureFit
from avatar_bench.models.model_card import Card, describe_training
from avatar_bench.runs.imported import ImportedRun
from avatar_bench.runs.record import ENSEMBLE, REBUILD_HINT, MemberRecord, RunRecord, is_imported, read_ensemble
from avatar_bench.runs.run import Run

if TYPE_CHECKING:
    from avatar_bench.models.classifier import Classifier

MAX_ENSEMBLE_DEPTH = 2  # an ensemble of soups is the deepest nesting
_SINGLE_RUN_OPTIONS = ("label", "recipe", "results_folder")


def open_run(path: str | Path, **options: Any) -> Run:
    """Open a run folder, a .ckpt file or an ensemble's folder; `options` are fields of Run.

    Raises CheckpointError if there is none, or if a member of an ensemble is missing or has changed.
    """
    return _open(Path(path), options)


def save_ensemble(folder: Path, description: Mapping[str, Any]) -> Path:
    """Write a folder's ensemble.json atomically, with members by relative path; return the folder.

    `description` holds kind ("ensemble" or "soup"), members (each with run, checkpoint_sha256, weight, temperature),
    temperature, temperature_fit and classes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    members = [
        {**member, "run": _compute_relative_path(Path(member["run"]), folder)} for member in description["members"]
    ]
    text = json.dumps({**description, "members": members}, indent=1, ensure_ascii=False, allow_nan=False)
    with atomic_write(folder / ENSEMBLE, alone=False) as part:
        part.write_text(f"{text}\n", encoding="utf-8")
    return folder


def describe_ensemble(
    kind: str,
    runs: Sequence[Run],
    mix: AveragingWeights,
    temperature: float,
    classes: tuple[str, ...],
    fit: TemperatureFit | None = None,
) -> dict[str, Any]:
    """Build the description that `save_ensemble` writes, of the runs with positive weight.

    `fit` states how the temperature was fitted, and whether it is applied.
    """
    rows = zip(runs, mix.weights.tolist(), mix.temperatures.tolist(), strict=True)
    members = [
        asdict(MemberRecord(str(run.checkpoint), run.checkpoint_sha256, weight, own_temperature))
        for run, weight, own_temperature in rows
        if weight > 0
    ]
    stated = {"temperature": float(temperature), "temperature_fit": fit.plain if fit else None}
    return {"kind": kind, "members": members, **stated, "classes": list(classes)}


@dataclass
class CombinedRun(Run):
    """One or more member runs with their weights and the temperature fitted for the combination.

    A data set refused by any member is refused; the run's own sets are those that no member was trained on.
    """

    KIND: ClassVar[str]  # must change whenever the same members give other Predictions: it invalidates cached ones

    members: tuple[Run, ...] = ()
    mix: AveragingWeights = field(default_factory=lambda: AveragingWeights(np.ones(0), np.ones(0)), compare=False)
    fitted: float = 1.0

    @cached_property
    def checkpoint_sha256(self) -> str:
        """Return a hash of the members' hashes, weights, temperatures and biases, and of the common temperature."""
        parts = zip(self.members, self.mix.weights.tolist(), self.mix.temperatures.tolist(), strict=True)
        members = [(run.checkpoint_sha256, weight, temperature, *run.bias) for run, weight, temperature in parts]
        return sha256_of_text(repr((self.KIND, self.card.classes, members, self.fitted)))

    @cached_property
    def images(self) -> Dataset | None:
        """Return the images used by any member, with a common split; None if a member's images are unknown.

        An image is in train if any member trained on it, else in val if any was selected on it, else in calibration
        or test if all members agree, else in no split.
        """
        sets = [member.images for member in self.members]
        known = [images for images in sets if images is not None]
        return _merge_images(known) if len(known) == len(sets) else None

    @cached_property
    def leakage(self) -> Leakage:
        """Return the guard against images that any member has used, or that the ensemble was calibrated on."""
        members = [member.leakage for member in self.members]
        image_sets = [*([self.images] if self.images else []), *(images for member in members for images in member.own)]
        used = [network for member in members for network in member.used]
        if self.saved_calibration is not None:
            used.append(UsedImages(self.known_labels, calibration=self.saved_calibration.images))
        return Leakage(used, image_sets, self.allow, copy_search.search_aligned_copies)

    @property
    def ancestors(self) -> list[dict[str, Any]]:
        """Return the earlier trainings of all members' weights, including each member's own."""
        steps: list[dict[str, Any]] = []
        for member in self.members:
            training = describe_training(member.card, member.checkpoint_sha256, member.record.allow or [])
            steps += [step for step in (*member.ancestors, training) if step not in steps]
        return steps


@dataclass
class EnsembleRun(CombinedRun):
    """Weighted mean of the members' probabilities and of their energies, see `average_logits`."""

    KIND = "Ensemble with energies"

    order: tuple[str, ...] = ()

    @cached_property
    def card(self) -> Card:
        """Return a card with the class order, the temperature and all other values on which the members agree."""
        cards = [member.card for member in self.members]
        first = cards[0]
        if any(set(card.classes) != set(self.order) for card in cards):
            raise CheckpointError(f"{self.checkpoint}: its classes differ from its members'.", REBUILD_HINT)
        alike = [card.split_fingerprint == first.split_fingerprint for card in cards]
        return replace(
            first,
            classes=self.order,
            backbone=" + ".join(dict.fromkeys(card.backbone for card in cards)),
            preprocessing=_keep_agreed_values([card.preprocessing for card in cards]),
            split_fingerprint=first.split_fingerprint if all(alike) else "",
            temperature=self.fitted,
        )

    @cached_property
    def predictor(self) -> DatasetPredictor:
        """Return the average of the members' predictors."""
        members = [member.cache for member in self.members]
        distinct = dict.fromkeys(prepare for member in members for prepare in member.predictor.preprocessings)
        return EnsemblePredictor(
            **self._predictor_fields, preprocessings=tuple(distinct), members=members, mix=self.mix
        )


@dataclass
class WeightSoup(CombinedRun):
    """Run of one network whose weights average those of members with the same architecture and initial weights.

    Wortsman et al., ICML 2022. Batch-norm means and variances are averaged too; integer buffers are the first member's.
    """

    KIND = "Soup"

    @classmethod
    def of(cls, members: Sequence[Run]) -> WeightSoup:
        """Build a soup without a folder, with temperature 1 and the first member's settings for prediction."""
        first, size = members[0], len(members)
        mix = AveragingWeights(np.full(size, 1 / size), np.ones(size))
        names = ("allow", "accelerator", "workers", "batch_size", "others", "view")
        settings = {name: getattr(first, name) for name in names}
        return cls(Path("soup"), None, _merge_records(members), **settings, members=tuple(members), mix=mix)

    @cached_property
    def card(self) -> Card:
        """Return the first member's card with the soup's temperature."""
        return replace(self.members[0].card, temperature=self.fitted)

    def load_network(self) -> Classifier:
        """Build the network with averaged weights, in eval mode, on the members' device."""
        networks = [member.predictor.module for member in self.members]
        states = [network.net.state_dict() for network in networks]
        average = {name: _average_tensors([state[name] for state in states], self.mix.weights) for name in states[0]}
        classifier = copy.deepcopy(networks[0])
        classifier.net.load_state_dict(average)
        for member in self.members:
            member.predictor.unload()
        return classifier


def _open(path: Path, options: Mapping[str, Any], depth: int = 0) -> Run:
    folder = path.parent if path.name == ENSEMBLE else path
    if not os.path.isfile(folder / ENSEMBLE):
        return (ImportedRun if is_imported(path) else Run).open(path, **options)
    stated = read_ensemble(folder)
    shared = {name: value for name, value in options.items() if name not in _SINGLE_RUN_OPTIONS}
    members = tuple(_open_member(folder, member, shared, depth + 1) for member in stated.members)
    mix = AveragingWeights(*np.array([(member.weight, member.temperature) for member in stated.members]).T)
    fields = {"members": members, "mix": mix, "fitted": stated.temperature, **options}
    record = replace(_merge_records(members), temperature_fit=stated.temperature_fit or {})
    location = (folder / ENSEMBLE, folder, record)
    if stated.kind == "soup":
        return WeightSoup(*location, **fields)
    return EnsembleRun(*location, **fields, order=stated.classes)


def _open_member(folder: Path, member: MemberRecord, options: Mapping[str, Any], depth: int) -> Run:
    path = Path(os.path.normpath(folder / member.run))
    if not path.exists():
        raise CheckpointError(f"{folder / ENSEMBLE}: its member {path} is missing.", REBUILD_HINT)
    is_ensemble = path.name == ENSEMBLE or (path / ENSEMBLE).is_file()
    if is_ensemble and depth == MAX_ENSEMBLE_DEPTH:  # an ensemble could also contain itself
        reason = f"{folder / ENSEMBLE}: ensembles of ensembles of ensembles are not supported."
        raise CheckpointError(reason, REBUILD_HINT)
    run = _open(path, options, depth)
    if run.checkpoint_sha256 != member.checkpoint_sha256:
        raise CheckpointError(f"{folder / ENSEMBLE}: its member {path} has changed since.", REBUILD_HINT)
    return run


def _compute_relative_path(path: Path, folder: Path) -> str:
    """Return the path relative to a folder, or the absolute path if there is no relative one (other drive)."""
    try:
        return Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()
    except ValueError:
        return str(path.absolute())


def _merge_records(members: Sequence[Run]) -> RunRecord:
    """Return the values on which all records agree, the first one's data location, and what any training resembles."""
    records = [member.record for member in members]
    merged = RunRecord(**_keep_agreed_values([vars(record) for record in records]) | {"data": records[0].data})
    resembled = [record.resembles for record in records if record.resembles is not None]
    is_known = len(resembled) == len(records)
    merged.resembles = sorted({name for names in resembled for name in names}) if is_known else None
    return merged


def _keep_agreed_values(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first, *others = parts
    return {key: value for key, value in first.items() if all(key in part and part[key] == value for part in others)}


def _merge_images(sets: Sequence[Dataset]) -> Dataset:
    root = sets[0].root
    frames = [_rebase_paths(root, images) for images in sets]
    splits = [dict(zip(frame["sha256"], frame["split"], strict=True)) for frame in frames]
    table = pd.concat(frames, ignore_index=True)
    table = table[~table.duplicated(["sha256"]) | (table.index < len(frames[0]))].reset_index(drop=True)
    merged = [_merge_splits([split.get(key, "") for split in splits]) for key in table["sha256"]]
    return Dataset("run", root, table.assign(split=merged))


def _rebase_paths(root: Path, images: Dataset) -> pd.DataFrame:
    if images.root == root:
        return images.frame
    paths = [_compute_relative_path(images.root / path, root) for path in images.frame["path"]]
    return images.frame.assign(path=paths)


def _merge_splits(splits: Sequence[str]) -> str:
    agreed = splits[0] if len(set(splits)) == 1 else ""
    return next((used for used in ("train", "val") if used in splits), agreed)


def _average_tensors(tensors: Sequence[torch.Tensor], weights: NDArray[np.float64]) -> torch.Tensor:
    if not tensors[0].is_floating_point():
        return tensors[0]
    parts = [weight * tensor.double() for weight, tensor in zip(weights.tolist(), tensors, strict=True)]
    return sum(parts, torch.zeros_like(parts[0])).to(tensors[0].dtype)
