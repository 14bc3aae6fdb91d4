"""Ensembles: Runs that are made of others, by the average of their probabilities or of their weights."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from avatar_bench.data.corruptions import Variation
from avatar_bench.data.dataset import Dataset
from avatar_bench.data.transforms import Preprocessing
from avatar_bench.errors import BlockError, CheckpointError
from avatar_bench.metrics.averaging import AveragingWeights, average_logits
from avatar_bench.models.card_schema import find_class_fault
from avatar_bench.models.model_card import Card, describe_training
from avatar_bench.results.predictions import Predictions
from avatar_bench.runs.record import ENSEMBLE, read_json
from avatar_bench.runs.run import Run

if TYPE_CHECKING:
    from avatar_bench.models.classifier import Classifier

_SINGLE_RUN_OPTIONS = ("label", "recipe", "judged")


def load(run: str | Path, **options: Any) -> Run:
    """Open a run folder, checkpoint file or ensemble for use from Python: `load(run).predict(paths)`."""
    return open_run(run, **options)


def predict(run: str | Path, paths: str | Path | Iterable[str | Path]) -> pd.DataFrame:
    """Give a verdict on each image file: `load(run).predict(paths)`."""
    return open_run(run).predict(paths)


def open_run(path: str | Path, **options: Any) -> Run:
    """Open a run folder, a .ckpt file or an ensemble's folder; `options` are fields of Run.

    Raise CheckpointError where there is none, or where a member of an ensemble is gone or has changed.
    """
    place = Path(path)
    folder = place.parent if place.name == ENSEMBLE else place
    return _open(folder, options) if os.path.isfile(folder / ENSEMBLE) else Run.open(place, **options)


def save_ensemble(folder: Path, description: Mapping[str, Any]) -> Path:
    """Write a folder's ensemble.json, complete or not at all, its members by their way from there; give the folder.

    `description` holds kind ("ensemble" or "soup"), members (each with run, checkpoint_sha256, weight, temperature),
    temperature and classes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    members = [
        {**member, "run": _compute_relative_path(Path(member["run"]), folder)} for member in description["members"]
    ]
    part = folder / f"{ENSEMBLE}.{os.getpid()}.part"  # another process may be writing the same
    text = json.dumps({**description, "members": members}, indent=1, ensure_ascii=False, allow_nan=False)
    part.write_text(f"{text}\n", encoding="utf-8")
    part.replace(folder / ENSEMBLE)
    return folder


def describe_ensemble(
    kind: str, runs: Sequence[Run], mix: AveragingWeights, temperature: float, classes: tuple[str, ...]
) -> dict[str, Any]:
    """Give what `save_ensemble` writes of the runs that weigh anything in a mix."""
    members = [
        {
            "run": str(run.checkpoint),
            "checkpoint_sha256": run.checkpoint_sha256,
            "weight": float(weight),
            "temperature": float(own),
        }
        for run, weight, own in zip(runs, mix.weights, mix.temperatures, strict=True)
        if weight > 0
    ]
    return {"kind": kind, "members": members, "temperature": float(temperature), "classes": list(classes)}


def combine_predictions(members: Sequence[Predictions], mix: AveragingWeights, temperature: float) -> Predictions:
    """Return the Predictions of averaged members, whose own are of the same images and in one order of classes.

    Logits are those of `average_logits`, known where every member that weighs anything has its own. Embeddings are the
    members' side by side, each row at length 1, so that no member outweighs another by the scale of its features.
    """
    weighing = [member for member, weight in zip(members, mix.weights, strict=True) if weight > 0]
    return replace(
        members[0],
        logits=average_logits(np.stack([member.logits for member in members]), mix).astype(np.float32),
        embeddings=np.concatenate([_scale_to_unit_length(member.embeddings) for member in members], axis=1),
        temperature=temperature,
        has_logits=all(member.has_logits for member in weighing),
    )


@dataclass
class CombinedRun(Run):
    """Hold the Runs, one or more, that one is made of, what each weighs, and the temperature fitted for the whole.

    A set is refused that any member refuses; its own sets are those that no member has learned from.
    """

    KIND: ClassVar[str]  # changes where the same members come to give other Predictions, so that kept ones are void

    members: tuple[Run, ...] = ()
    mix: AveragingWeights = field(default_factory=lambda: AveragingWeights(np.ones(0), np.ones(0)), compare=False)
    fitted: float = 1.0

    @cached_property
    def checkpoint_sha256(self) -> str:
        """Give a hash of the members' hashes, weights and temperatures, and of the whole's temperature."""
        parts = zip(self.members, self.mix.weights.tolist(), self.mix.temperatures.tolist(), strict=True)
        stated = [(member.checkpoint_sha256, weight, own) for member, weight, own in parts]
        text = repr((self.KIND, self.classes, stated, self.fitted))
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def images(self) -> Dataset | None:
        """Give every image that a member used, at the side of it that is true for all; None where one does not know.

        An image is of train where any member trained on it, else of val where any was chosen by it, else of
        calibration or test where all agree, else of none.
        """
        sets = [member.images for member in self.members]
        known = [images for images in sets if images is not None]
        return _merge_images(known) if len(known) == len(sets) else None

    @property
    def inference_seconds(self) -> float:
        """Give how long sets of images took to go through every network so far."""
        return super().inference_seconds + sum(member.inference_seconds for member in self.members)

    @property
    def ancestors(self) -> list[dict[str, Any]]:
        """Give what every member's weights have been through, each member's training included."""
        steps: list[dict[str, Any]] = []
        for member in self.members:
            own = describe_training(member.card, member.checkpoint_sha256, member.record.get("allow") or [])
            steps += [step for step in (*member.ancestors, own) if step not in steps]
        return steps

    def unload_model(self) -> None:
        """Let go of every network."""
        super().unload_model()
        for member in self.members:
            member.unload_model()

    def _is_held_out(self, dataset: Dataset) -> bool:
        return super()._is_held_out(dataset) or any(member._holds_out(dataset) for member in self.members)

    def _in_pretraining(self, dataset: Dataset) -> NDArray[np.bool_]:
        seen: NDArray[np.bool_] = np.any([member._in_pretraining(dataset) for member in self.members], axis=0)
        return seen

    def _guard(self, dataset: Dataset, excused: frozenset[str]) -> None:
        for member in self.members:
            member._guard(dataset, excused)


@dataclass
class EnsembleRun(CombinedRun):
    """Weighted mean of the members' probabilities and of their energies, see `average_logits`."""

    KIND = "Ensemble with energies"

    order: tuple[str, ...] = ()

    @cached_property
    def card(self) -> Card:
        """Give the order of the classes, the temperature, and of the rest what all members agree on."""
        cards = [member.card for member in self.members]
        first = cards[0]
        if any(set(card.classes) != set(self.order) for card in cards):
            raise CheckpointError(f"{self.checkpoint}: its classes are not those of its members.", _REBUILD_HINT)
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
    def preprocessing(self) -> Preprocessing:
        """Give the first member's transform, for images that are shown; each member uses its own."""
        return self.members[0].preprocessing

    @cached_property
    def classifier(self) -> Classifier:
        """Raise BlockError: there is none."""
        raise BlockError(f"{self.name}: an ensemble has no single network.")

    def wake(self, precision: str = "32") -> list[str]:
        """Read every member's network now, and give what is to be told of them; raise as a Run's does."""
        return [note for member in self.members for note in member.load_model(precision)]

    @property
    def preprocessings(self) -> tuple[Preprocessing, ...]:
        """Give each way in which a member wants an image prepared, once."""
        return tuple(dict.fromkeys(one for member in self.members for one in member.preprocessings))

    def logits(self, images: Sequence[torch.Tensor], precision: str = "32") -> NDArray[np.float32]:
        """Return the average of the members' logits, (n, C), see `average_logits`."""
        prepared = dict(zip(self.preprocessings, images, strict=True))
        found = []
        for member in self.members:
            logits = member.logits([prepared[one] for one in member.preprocessings], precision)
            found.append(logits[:, [member.classes.index(name) for name in self.classes]])
        return average_logits(np.stack(found), self.mix).astype(np.float32)

    def _compute(self, dataset: Dataset) -> Predictions:
        return self._combine([member._predict(dataset) for member in self.members])

    def _compute_varied(self, dataset: Dataset, variations: Sequence[Variation]) -> list[Predictions]:
        made = [member._vary(dataset, variations) for member in self.members]
        return [self._combine(each) for each in zip(*made, strict=True)]

    def _combine(self, made: Sequence[Predictions]) -> Predictions:
        return combine_predictions([one.reorder(self.classes) for one in made], self.mix, self.temperature)


@dataclass
class WeightSoup(CombinedRun):
    """Answer with one network whose weights are the mean of the members', which share one architecture and origin.

    Wortsman et al., ICML 2022. Counters are the first member's; means and variances of normalisation are averaged too.
    """

    KIND = "Soup"

    @classmethod
    def of(cls, members: Sequence[Run]) -> WeightSoup:
        """Give a soup that lies in no folder, with a temperature of 1; it predicts as the first member is set to."""
        first, size = members[0], len(members)
        mix = AveragingWeights(np.full(size, 1 / size), np.ones(size))
        settings = {name: getattr(first, name) for name in ("allow", "accelerator", "workers", "batch_size", "others")}
        return cls(Path("soup"), None, _merge_records(members), **settings, members=tuple(members), mix=mix)

    @cached_property
    def card(self) -> Card:
        """Give the first member's card with the soup's temperature."""
        return replace(self.members[0].card, temperature=self.fitted)

    @cached_property
    def classifier(self) -> Classifier:
        """Give the network of averaged weights, in eval mode, on the run's device."""
        states = [member.classifier.net.state_dict() for member in self.members]
        classifier = copy.deepcopy(self.members[0].classifier)
        classifier.net.load_state_dict(_average_states(states, self.mix.weights))
        for member in self.members:
            member.unload_model()
        return classifier


def _open(folder: Path, options: Mapping[str, Any], depth: int = 1) -> CombinedRun:
    stated = _read(folder)
    shared = {name: value for name, value in options.items() if name not in _SINGLE_RUN_OPTIONS}
    members = tuple(_open_member(folder, member, shared, depth) for member in stated["members"])
    mix = AveragingWeights(
        *(np.array([float(member[key]) for member in stated["members"]]) for key in ("weight", "temperature"))
    )
    fields = {"members": members, "mix": mix, "fitted": float(stated["temperature"]), **options}
    place = (folder / ENSEMBLE, folder, _merge_records(members))
    if stated["kind"] == "soup":
        return WeightSoup(*place, **fields)
    return EnsembleRun(*place, **fields, order=tuple(stated["classes"]))


def _read(folder: Path) -> dict[str, Any]:
    file = folder / ENSEMBLE
    try:
        stated = read_json(file)
        members = stated["members"]
        keys = {"run", "checkpoint_sha256", "weight", "temperature"}
        whole = stated["kind"] in ("ensemble", "soup") and bool(members) and all(keys <= one.keys() for one in members)
        numbers = [float(one[key]) for one in members for key in ("weight", "temperature")] + [stated["temperature"]]
        usable = whole and all(0 < number < np.inf for number in numbers) and len(members) <= MAX_MEMBERS
        usable = usable and isinstance(stated["classes"], list) and not find_class_fault(stated["classes"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"{file} cannot be read: {type(error).__name__}: {error}.", _REBUILD_HINT) from error
    if not usable:
        raise CheckpointError(
            f"{file} does not describe an ensemble: members, weights, temperatures, classes.", _REBUILD_HINT
        )
    return dict(stated)


MAX_MEMBERS = 1000  # at most
MAX_ENSEMBLE_DEPTH = 2  # of ensembles: one of soups is deep enough
_REBUILD_HINT = "Make it again: avatar-bench evaluate ckpt=FOLDER block=ensemble"


def _open_member(folder: Path, stated: Mapping[str, Any], options: Mapping[str, Any], depth: int) -> Run:
    place = Path(os.path.normpath(folder / str(stated["run"])))
    if not place.exists():
        raise CheckpointError(f"{folder / ENSEMBLE}: its member {place} is gone.", _REBUILD_HINT)
    inner = place.parent if place.name == ENSEMBLE else place
    if (inner / ENSEMBLE).is_file() and depth == MAX_ENSEMBLE_DEPTH:  # it may be a member of itself
        raise CheckpointError(f"{folder / ENSEMBLE}: its members are ensembles of ensembles.", _REBUILD_HINT)
    run = _open(inner, options, depth + 1) if (inner / ENSEMBLE).is_file() else Run.open(place, **options)
    if run.checkpoint_sha256 != stated["checkpoint_sha256"]:
        raise CheckpointError(
            f"{folder / ENSEMBLE}: its member {place} is no longer the one it was made of.", _REBUILD_HINT
        )
    return run


def _compute_relative_path(place: Path, folder: Path) -> str:
    """Give the way from a folder to a place; the place itself where there is none, as between two drives."""
    try:
        return Path(os.path.relpath(place.absolute(), folder.absolute())).as_posix()
    except ValueError:
        return str(place.absolute())


def _merge_records(members: Sequence[Run]) -> dict[str, Any]:
    """Give what all members' records agree on, and where the first finds its data."""
    record = _keep_agreed_values([member.record for member in members])
    return record | {key: members[0].record[key] for key in ("data",) if key in members[0].record}


def _keep_agreed_values(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in parts[0].items() if all(key in one and one[key] == value for one in parts)}


def _merge_images(sets: Sequence[Dataset]) -> Dataset:
    root = sets[0].root
    frames = [_rebase_paths(root, images) for images in sets]
    sides = [dict(zip(frame["sha256"], frame["split"], strict=True)) for frame in frames]
    whole = pd.concat(frames, ignore_index=True)
    whole = whole[~whole.duplicated(["sha256"]) | (whole.index < len(frames[0]))].reset_index(drop=True)
    split = [_merge_splits([side.get(key, "") for side in sides]) for key in whole["sha256"]]
    return Dataset("run", root, whole.assign(split=split))


def _rebase_paths(root: Path, images: Dataset) -> pd.DataFrame:
    if images.root == root:
        return images.frame
    paths = [_compute_relative_path(images.root / path, root) for path in images.frame["path"]]
    return images.frame.assign(path=paths)


def _merge_splits(sides: Sequence[str]) -> str:
    for learned in ("train", "val"):
        if learned in sides:
            return learned
    return sides[0] if len(set(sides)) == 1 else ""


def _scale_to_unit_length(embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.asarray(embeddings / np.maximum(lengths, 1e-12), dtype=np.float32)


def _average_states(
    states: Sequence[Mapping[str, torch.Tensor]], weights: NDArray[np.float64]
) -> dict[str, torch.Tensor]:
    return {name: _average_tensors([state[name] for state in states], weights) for name in states[0]}


def _average_tensors(tensors: Sequence[torch.Tensor], weights: NDArray[np.float64]) -> torch.Tensor:
    if not tensors[0].is_floating_point():
        return tensors[0]
    total = sum(weight * tensor.double() for weight, tensor in zip(weights.tolist(), tensors, strict=True))
    assert isinstance(total, torch.Tensor)
    return total.to(tensors[0].dtype)
