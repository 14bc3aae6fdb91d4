"""The card of a checkpoint: its label contract and its origin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from avatar_bench.errors import CheckpointError
from avatar_bench.files.document import Document, OpenDocument, expecting, parse
from avatar_bench.models import card_schema as types
from avatar_bench.models.checkpoint import CARD_KEY

CARD_SCHEMA = 2
PROVENANCE_KEY = "provenance"  # of the origin of an export, among its texts


@dataclass(frozen=True)
class Card(Document):
    """The label contract and the origin of a checkpoint, in plain types; `classes` in the order of the outputs.

    `preprocessing` is the evaluation transform; `temperature` divides the logits (1 until it is fitted).
    """

    classes: types.Classes
    backbone: types.NetworkName
    preprocessing: types.Preprocessed
    options: types.NetworkOptions = field(default_factory=dict)
    weights: str = "none"
    mode: types.Text = ""
    stage: types.Stage = 1
    seed: types.Count = 0
    split_fingerprint: types.Text = ""
    data_fingerprint: types.Text = ""
    temperature: types.Positive = 1.0
    trained_until: types.Date = ""  # last date of the training images, where they were chosen by date
    versions: types.Versions = field(default_factory=dict)
    schema: Annotated[int, expecting(CARD_SCHEMA, "train again")] = CARD_SCHEMA

    @classmethod
    def from_checkpoint(cls, checkpoint: Mapping[str, Any], file: Path) -> Card:
        """Read and check the card of a loaded checkpoint; raise CheckpointError if it is not one of avatar_bench."""
        card = checkpoint.get(CARD_KEY)
        if not isinstance(card, dict) or not {"classes", "schema"} <= card.keys():
            reason = f"{file} is not a checkpoint of avatar_bench: it has no classes, or no schema."
            raise CheckpointError(reason, "Expected checkpoints/best.ckpt or last.ckpt of a run folder.")
        try:
            return parse(cls, card)
        except ValueError as error:
            raise CheckpointError(f"{file}: {error}.", "The file is damaged, or was made by hand.") from error

    def plain(self) -> dict[str, Any]:
        """Return the card in types that a weights-only load accepts, as earlier versions do where they can."""
        stated = {**asdict(self), "classes": list(self.classes)}
        return stated if self.trained_until else {key: stated[key] for key in stated if key != "trained_until"}


@dataclass(frozen=True)
class Provenance(OpenDocument):
    """Training history of the weights of an exported run, and the guards that were turned off."""

    ancestors: tuple[types.Step, ...] = ()
    allow: tuple[str, ...] = ()


def describe_training(card: Card, sha256: str, allow: Sequence[str]) -> types.Step:
    """Return a supervised training as a step in the history of its weights; see `PretrainedWeights`."""
    fingerprints = {"split_fingerprint": card.split_fingerprint, "data_fingerprint": card.data_fingerprint}
    return {"method": "train", "sha256": sha256, **fingerprints, "allow": list(allow)}


def has_outside_labels(ancestors: Sequence[Mapping[str, Any]], split: str, data: str) -> bool:
    """Check whether weights were pretrained with labels of other images or splits, or started from such weights."""
    return any(
        (step["split_fingerprint"], step.get("data_fingerprint")) != (split, data)
        or "pretraining" in step.get("allow", ())
        for step in ancestors
        if "split_fingerprint" in step
    )
