"""The card of a checkpoint: its label contract and its origin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from avatar_bench.errors import CheckpointError
from avatar_bench.models.card_schema import are_ancestors, find_card_fault
from avatar_bench.models.checkpoint import CARD_KEY
from avatar_bench.models.weight_formats import read_plain_json

CARD_SCHEMA = 2
PROVENANCE_KEY = "provenance"  # of the origin of an export, among its texts


@dataclass(frozen=True)
class Card:
    """The label contract and the origin of a checkpoint, in plain types; `classes` in the order of the outputs.

    `preprocessing` is the evaluation transform; `temperature` divides the logits (1 until it is fitted).
    """

    classes: tuple[str, ...]
    backbone: str
    preprocessing: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    weights: str = "none"
    mode: str = ""
    stage: int = 1
    seed: int = 0
    split_fingerprint: str = ""
    data_fingerprint: str = ""
    temperature: float = 1.0
    trained_until: str = ""  # last date of the training images, where they were chosen by date
    versions: dict[str, str] = field(default_factory=dict)
    schema: int = CARD_SCHEMA

    @classmethod
    def from_checkpoint(cls, checkpoint: Mapping[str, Any], file: Path) -> Card:
        """Read and check the card of a loaded checkpoint; raise CheckpointError if it is not one of avatar_bench."""
        card = checkpoint.get(CARD_KEY)
        known = {item.name for item in fields(cls)}
        if isinstance(card, dict) and "classes" in card and card.get("schema") != CARD_SCHEMA:
            raise CheckpointError(
                f"{file} has schema {ascii(card.get('schema'))[:20]}, this version reads {CARD_SCHEMA}: train again."
            )
        if not isinstance(card, dict) or not {"classes", "backbone", "preprocessing"} <= card.keys() <= known:
            reason = f"{file} is not a checkpoint of avatar_bench: classes or preprocessing are missing."
            raise CheckpointError(reason, "Expected checkpoints/best.ckpt or last.ckpt of a run folder.")
        if fault := find_card_fault(card):
            raise CheckpointError(f"{file}: {fault}.", "The file is damaged, or was made by hand.")
        return cls(**{**card, "classes": tuple(card["classes"])})

    def plain(self) -> dict[str, Any]:
        """Return the card in types that a weights-only load accepts, as earlier versions do where they can."""
        stated = {**asdict(self), "classes": list(self.classes)}
        return stated if self.trained_until else {key: stated[key] for key in stated if key != "trained_until"}


def read_provenance(texts: Mapping[str, str], file: Path) -> dict[str, Any]:
    """Read `ancestors` and `allow` of the exported run from the texts of a file; empty if they are missing."""
    stated = read_plain_json(texts.get(PROVENANCE_KEY, "{}"))
    provenance = stated if isinstance(stated, dict) else {}
    ancestors, allow = provenance.get("ancestors", []), provenance.get("allow", [])
    if not are_ancestors(ancestors) or not isinstance(allow, list):
        raise CheckpointError(f"{file}: its provenance is damaged, or was made by hand.")
    return {"ancestors": ancestors, "allow": allow}


def describe_training(card: Card, sha256: str, allow: Sequence[str]) -> dict[str, Any]:
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
