"""Pretrained backbones: weights with a card that says how they came about, and which images they have seen."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from avatar_bench.console.terminal import format_count
from avatar_bench.errors import CheckpointError, ConfigError, GuardError
from avatar_bench.files.atomic_write import atomic_write
from avatar_bench.files.checkpoint_container import refuse_address
from avatar_bench.files.hashes import sha256_of_file
from avatar_bench.models.card_schema import find_option_fault, find_value_fault
from avatar_bench.models.checkpoint import CARD_KEY, encode_weights, verify_checksum
from avatar_bench.models.model_card import Card, describe_training, read_provenance
from avatar_bench.models.weight_formats import describe_error, read_plain_json, read_safetensors, read_state

IMAGES_FILE = "images.csv"
PRETRAINING_KEY = "pretraining"  # of the card, in the file's metadata
PRETRAINING_SCHEMA = 2
# options that weights do not depend on: rates of dropout, the size of images, to which positions are resampled, and
# how the last layer is read, by another pooling of which a network is often fine-tuned
_IRRELEVANT_OPTIONS = re.compile(r".*_rate|.*_drop|.*img_size|dynamic_img_pad|global_pool|fc_norm|head_init_scale")


@dataclass(frozen=True)
class Pretraining:
    """What a file of pretrained weights says of itself.

    `preprocessing` is that of training images; `root` is where they lay, and images.csv beside the file, whose
    SHA-256 is `images_sha256`, names them, those that `ancestors` have seen among them; see `PretrainedWeights`.
    """

    backbone: str
    method: str
    preprocessing: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    weights: str = "none"
    epochs: int = 0
    seed: int = 0
    split_fingerprint: str = ""
    data_fingerprint: str = ""
    root: str = ""
    images: int = 0
    images_sha256: str = ""
    ancestors: list[dict[str, Any]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    schema: int = PRETRAINING_SCHEMA

    def find_image_list(self, file: Path) -> Path:
        """Give the list of the images that weights have seen; raise GuardError where it is gone or another."""
        images = file.with_name(IMAGES_FILE)
        if not os.path.isfile(images) or sha256_of_file(images) != self.images_sha256:
            raise GuardError(
                f"{images}, which lists what {file.name} has seen ({format_count(self.images, 'image')}), "
                "is gone or changed.",
                "Put it there as pretrain wrote it: without it nobody knows whether test images are among them.",
            )
        return images


def write_backbone(net: nn.Module, card: Pretraining, file: Path) -> None:
    """Write a network's weights, called as in timm and without a classifier, with their card."""
    texts = {PRETRAINING_KEY: json.dumps(asdict(card), ensure_ascii=False, allow_nan=False)}
    with atomic_write(file) as part:
        part.write_bytes(encode_weights(net, texts))


@dataclass(frozen=True)
class PretrainedWeights:
    """A file of weights as it was when it was read, once.

    `ancestors` say what the weights have been through, the first step first; nothing is known without a card of ours.
    Each step has its method and the SHA-256 of the file that came of it; a pretraining the number of images that its
    list names; a training, whose labels were read, the fingerprints of its images and split, and what it was allowed.
    """

    file: Path
    sha256: str
    tensors: Mapping[str, Tensor]
    card: Pretraining | Card | None = None
    ancestors: Sequence[dict[str, Any]] = ()


def read_weights(file: Path) -> PretrainedWeights:
    """Read a file of weights, with its card where it has one of ours.

    Raises ConfigError where there is no file, CheckpointError where it is damaged or changes meanwhile.
    """
    refuse_address(str(file), "model.weights")
    if not os.path.isfile(file):
        raise ConfigError(
            f"model.weights={file} is not a file.",
            "Expected hub, none, package, or the path of a .safetensors or .pth file.",
        )
    before, sha256 = _read_stamp(file), sha256_of_file(file)
    tensors, texts, said = _read_with_card(file) if file.suffix == ".safetensors" else (read_state(file), {}, {})
    if _read_stamp(file) != before:
        raise CheckpointError(f"{file} changed while it was read.", "Wait until it is whole, and begin again.")
    if PRETRAINING_KEY in said:
        card = Pretraining(**said[PRETRAINING_KEY])
        step = {"method": card.method, "sha256": sha256, "images": card.images}
        return PretrainedWeights(file, sha256, tensors, card, [*card.ancestors, step])
    if CARD_KEY in said:
        exported, origin = Card.from_checkpoint(said, file), read_provenance(texts, file)
        step = describe_training(exported, sha256, origin["allow"])
        return PretrainedWeights(file, sha256, tensors, exported, [*origin["ancestors"], step])
    return PretrainedWeights(file, sha256, tensors)


def refuse_other_network(weights: PretrainedWeights, name: str, options: Mapping[str, Any]) -> None:
    """Raise ConfigError where a file with a card of ours is of another network than timm's `name` with `options`.

    Of other options, weights often fit by name and shape, and compute something else.
    """
    if (card := weights.card) is None:
        return
    if card.backbone.split(".")[0] != name.split(".")[0]:
        raise ConfigError(
            f"model.weights={weights.file} holds {card.backbone}, not {name}.",
            f"Choose the same network: model=timm model.backbone={card.backbone}",
        )
    refuse_other_options(f"model.weights={weights.file}", card.options, options)


def refuse_other_options(what: str, kept: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise ConfigError where the weights of `what` belong to a network of other options than those given."""
    kept, given = _select_relevant(kept), _select_relevant(given)
    surplus = [name for name in given if name not in kept]
    if kept != given:
        raise ConfigError(
            f"{what} is of a network with model.options={_format_options(kept)}, not {_format_options(given)}.",
            f"Give the same: 'model.options={_format_options(kept)}'"
            + f", without {', '.join(surplus)}" * bool(surplus),
        )


def _read_with_card(file: Path) -> tuple[dict[str, Tensor], dict[str, str], dict[str, Any]]:
    """Give the tensors of a .safetensors file, the texts beside them, and the cards of ours among these."""
    try:
        tensors, texts = read_safetensors(file)
        if PRETRAINING_KEY in texts or CARD_KEY in texts:
            verify_checksum(tensors, texts)
        said = {key: read_plain_json(texts[key]) for key in (PRETRAINING_KEY, CARD_KEY) if key in texts}
        if PRETRAINING_KEY in said:
            _check_card(said[PRETRAINING_KEY])
    except Exception as error:  # of safetensors, json and ours, of many types
        raise CheckpointError(f"{file} cannot be read as pretrained weights: {describe_error(error)}.") from error
    return tensors, texts, said


def _read_stamp(file: Path) -> tuple[int, int, int]:
    """Give what tells that a file was written anew."""
    status = file.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _select_relevant(options: Mapping[str, Any]) -> dict[str, Any]:
    """Give those of a network's options that change what its weights compute."""
    plain = json.loads(json.dumps(dict(options)))  # a tuple is the list that a file gives back
    return {name: value for name, value in plain.items() if not _IRRELEVANT_OPTIONS.fullmatch(name)}


def _format_options(options: Mapping[str, Any]) -> str:
    return f"{{{', '.join(f'{name}: {json.dumps(value)}' for name, value in sorted(options.items()))}}}"


def _check_card(card: Any) -> None:
    """Raise ValueError where what a file says of itself is no card."""
    if isinstance(card, dict) and "method" in card and card.get("schema") != PRETRAINING_SCHEMA:
        raise ValueError(f"its card is not of schema {PRETRAINING_SCHEMA}, which this version reads: pretrain again")
    known = {item.name for item in fields(Pretraining)}
    if not isinstance(card, dict) or not {"backbone", "method", "preprocessing"} <= card.keys() <= known:
        raise ValueError("its card lacks something, or holds something else")
    if fault := find_value_fault(card) or find_option_fault(card.get("options", {})):
        raise ValueError(fault)
