"""The card of a checkpoint: its label contract, and where it comes from."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from avatar_bench.errors import CheckpointError
from avatar_bench.models.checkpoints import CARD_KEY, read_checkpoint
from avatar_bench.models.schema import fault_of_card
from avatar_bench.models.tensors import read_safetensors

SCHEMA = 1


@dataclass(frozen=True)
class Card:
    """What a checkpoint says of itself, in plain types: the label contract and where it comes from.

    `classes` are in the order of the network's outputs; `preprocessing` is the evaluation transform;
    `temperature` divides the logits (1 until it is fitted).
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
    versions: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    @classmethod
    def from_checkpoint(cls, checkpoint: Any, file: Path) -> Card:
        """Read and check the card of a loaded checkpoint; raise CheckpointError where it is not one of ours."""
        card = checkpoint.get(CARD_KEY) if isinstance(checkpoint, dict) else None
        known = {item.name for item in fields(cls)}
        if not isinstance(card, dict) or not {"classes", "backbone", "preprocessing"} <= card.keys() <= known:
            raise CheckpointError(
                f"{file} is not a checkpoint of avatar_bench: it does not say its classes and preprocessing.",
                "Expected checkpoints/best.ckpt or last.ckpt of a run folder.",
            )
        if card.get("schema") != SCHEMA:
            raise CheckpointError(
                f"{file} has schema {ascii(card.get('schema'))[:20]}; this version reads schema {SCHEMA}."
            )
        if fault := fault_of_card(card):
            raise CheckpointError(f"{file}: {fault}.", "It is damaged, or was made by hand.")
        return cls(**{**card, "classes": tuple(card["classes"])})

    def plain(self) -> dict[str, Any]:
        """Give the card as types that a weights-only load accepts."""
        return {**asdict(self), "classes": list(self.classes)}


def read_exported(file: Path) -> Card | None:
    """Read the card of weights that `export` wrote, None of another file; raise CheckpointError where it is damaged."""
    if file.suffix != ".safetensors" or not os.path.isfile(file):
        return None
    try:
        texts = read_safetensors(file)[1]
    except Exception:  # of many types: who reads the weights will tell
        return None
    return Card.from_checkpoint(read_checkpoint(file), file) if CARD_KEY in texts else None
