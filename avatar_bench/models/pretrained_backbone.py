"""Pretrained weights with a card of their origin and a list of the images used."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from torch import Tensor, nn

from avatar_bench.console.terminal import format_count
from avatar_bench.errors import CheckpointError, ConfigError, GuardError
from avatar_bench.files.atomic_write import atomic_write
from avatar_bench.files.checkpoint_container import refuse_address
from avatar_bench.files.document import Document, expecting, parse, parse_json
from avatar_bench.files.hashes import sha256_of_file
from avatar_bench.models import card_schema as types
from avatar_bench.models.checkpoint import CARD_KEY, encode_weights, verify_checksum
from avatar_bench.models.model_card import PROVENANCE_KEY, Card, Provenance, describe_training
from avatar_bench.models.weight_formats import describe_error, read_safetensors, read_state

IMAGES_FILE = "images.csv"
PRETRAINING_KEY = "pretraining"  # of the card in the metadata of the file
PRETRAINING_SCHEMA = 2
# options that weights do not depend on: dropout rates, the image size, to which position embeddings are resampled, and
# the pooling of the last layer, which is often changed for fine-tuning
_IRRELEVANT_OPTIONS = re.compile(r".*_rate|.*_drop|.*img_size|dynamic_img_pad|global_pool|fc_norm|head_init_scale")


@dataclass(frozen=True)
class Pretraining(Document):
    """The card of pretrained weights.

    `preprocessing` and `root` are those of the training images. images.csv beside the file, whose SHA-256 is
    `images_sha256`, lists them, including the ones used by `ancestors`; see `PretrainedWeights`.
    """

    backbone: types.NetworkName
    method: types.Text
    preprocessing: types.Preprocessed
    options: types.NetworkOptions = field(default_factory=dict)
    weights: str = "none"
    epochs: types.Count = 0
    seed: types.Count = 0
    split_fingerprint: types.Text = ""
    data_fingerprint: types.Text = ""
    root: str = ""
    images: types.Count = 0
    images_sha256: types.Text = ""
    ancestors: list[types.Step] = field(default_factory=list)
    versions: types.Versions = field(default_factory=dict)
    schema: Annotated[int, expecting(PRETRAINING_SCHEMA, "pretrain again")] = PRETRAINING_SCHEMA

    def find_image_list(self, file: Path) -> Path:
        """Return the file that lists the images used in training; raise GuardError if it is missing or changed."""
        images = file.with_name(IMAGES_FILE)
        if not os.path.isfile(images) or sha256_of_file(images) != self.images_sha256:
            raise GuardError(
                f"{images}, the list of the training images of {file.name} "
                f"({format_count(self.images, 'image')}), is missing or changed.",
                "Restore the file that pretrain wrote: without it, overlap with test images cannot be checked.",
            )
        return images


def write_backbone(net: nn.Module, card: Pretraining, file: Path) -> None:
    """Write a network's weights with their card, under timm's names and without a classifier."""
    texts = {PRETRAINING_KEY: json.dumps(asdict(card), ensure_ascii=False, allow_nan=False)}
    with atomic_write(file) as part:
        part.write_bytes(encode_weights(net, texts))


@dataclass(frozen=True)
class PretrainedWeights:
    """The contents of a weights file, read once.

    `ancestors` is the training history of the weights, in order; it is empty without a card of avatar_bench. Each step
    has its method and the SHA-256 of the resulting file; a pretraining also has the number of listed images, and a
    supervised training the fingerprints of its images and split, and the guards that it was allowed to pass.
    """

    file: Path
    sha256: str
    tensors: Mapping[str, Tensor]
    card: Pretraining | Card | None = None
    ancestors: Sequence[types.Step] = ()


def read_weights(file: Path) -> PretrainedWeights:
    """Read a weights file, with its card if any; raise ConfigError if it is missing, CheckpointError if damaged."""
    refuse_address(str(file), "model.weights")
    if not os.path.isfile(file):
        reason = f"model.weights={file} is not a file."
        raise ConfigError(reason, "Expected hub, none, package, or the path of a .safetensors or .pth file.")
    before, sha256 = _read_stamp(file), sha256_of_file(file)
    tensors, cards = _read_with_card(file) if file.suffix == ".safetensors" else (read_state(file), {})
    if _read_stamp(file) != before:
        raise CheckpointError(f"{file} changed while it was read.", "Wait until it is complete, and start again.")
    if PRETRAINING_KEY in cards:
        card = cards[PRETRAINING_KEY]
        step: types.Step = {"method": card.method, "sha256": sha256, "images": card.images}
        return PretrainedWeights(file, sha256, tensors, card, [*card.ancestors, step])
    if CARD_KEY in cards:
        exported, origin = Card.from_checkpoint(cards, file), cards[PROVENANCE_KEY]
        step = describe_training(exported, sha256, origin.allow)
        return PretrainedWeights(file, sha256, tensors, exported, [*origin.ancestors, step])
    return PretrainedWeights(file, sha256, tensors)


def refuse_other_network(weights: PretrainedWeights, name: str, options: Mapping[str, Any]) -> None:
    """Raise ConfigError if the card names another network or options: weights often fit, but compute something else."""
    if (card := weights.card) is None:
        return
    if card.backbone.split(".")[0] != name.split(".")[0]:
        reason = f"model.weights={weights.file} contains weights of {card.backbone}, not of {name}."
        raise ConfigError(reason, f"Choose the same network: model=timm model.backbone={card.backbone}")
    refuse_other_options(f"model.weights={weights.file}", card.options, options)


def refuse_other_options(what: str, saved: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Raise ConfigError if the weights of `what` belong to a network with other options than the given ones."""
    saved, options = _select_relevant(saved), _select_relevant(options)
    surplus = [name for name in options if name not in saved]
    if saved != options:
        raise ConfigError(
            f"{what} belongs to a network with model.options={_format_options(saved)}, not {_format_options(options)}.",
            f"Use the same: 'model.options={_format_options(saved)}'"
            + f", without {', '.join(surplus)}" * bool(surplus),
        )


def _read_with_card(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors of a .safetensors file, and the cards of avatar_bench among its texts."""
    try:
        tensors, texts = read_safetensors(file)
        if PRETRAINING_KEY in texts or CARD_KEY in texts:
            verify_checksum(tensors, texts)
        cards = {key: parse_json(texts[key]) for key in (PRETRAINING_KEY, CARD_KEY) if key in texts}
        if PRETRAINING_KEY in cards:
            cards[PRETRAINING_KEY] = parse(Pretraining, cards[PRETRAINING_KEY])
        cards[PROVENANCE_KEY] = parse(Provenance, parse_json(texts.get(PROVENANCE_KEY, "{}")))
    except Exception as error:  # errors of many types, from safetensors, json and this package
        raise CheckpointError(f"{file} cannot be read as pretrained weights: {describe_error(error)}.") from error
    return tensors, cards


def _read_stamp(file: Path) -> tuple[int, int, int]:
    """Return the inode, size and time of a file, which change when it is rewritten."""
    status = file.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _select_relevant(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a network that change what its weights compute."""
    plain = json.loads(json.dumps(dict(options)))  # tuples become lists, as in a file
    return {name: value for name, value in plain.items() if not _IRRELEVANT_OPTIONS.fullmatch(name)}


def _format_options(options: Mapping[str, Any]) -> str:
    return f"{{{', '.join(f'{name}: {json.dumps(value)}' for name, value in sorted(options.items()))}}}"
