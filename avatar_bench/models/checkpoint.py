"""Files of checkpoints: written whole, with their checksum, and read as plain data alone."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from avatar_bench.errors import CheckpointError, OutputError
from avatar_bench.files.atomic_write import atomic_write, sync_to_disk
from avatar_bench.files.hashes import sha256_of_file
from avatar_bench.models.weight_formats import (
    describe_error,
    encode_safetensors,
    read_plain_json,
    read_safetensors,
    read_torch_file,
)

LAST_CHECKPOINT, PREVIOUS_CHECKPOINT, BEST_CHECKPOINT = (
    "last.ckpt",
    "before.ckpt",
    "best.ckpt",
)  # `before` is the last one but one
CARD_KEY = "avatar_bench"  # of what a checkpoint says of itself
CHECKSUM_KEY = "sha256"  # of an exported file: the hash of its texts and weights


def write_checkpoint(checkpoint: dict[str, Any], file: Path) -> None:
    """Write to a temporary file in the same folder, flush it to the disk, and rename it; its .sha256 comes beside it.

    The last checkpoint of a run becomes the one before it. Raise OutputError, leaving all earlier files, where it
    cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(_checksum_file(file)) as side, atomic_write(file) as part:
            _save(checkpoint, part)
            # on the disk before the file has its name: a kill between the two renames leaves its hash to be found
            side.write_text(f"{sha256_of_file(part)}  {file.name}\n", encoding="utf-8")
            sync_to_disk(side)
            if file.name == LAST_CHECKPOINT:
                _keep_previous(file, file.with_name(PREVIOUS_CHECKPOINT))
    except OSError as error:
        raise OutputError(
            f"{file} cannot be written: {error.strerror or error}.",
            "What was saved before is kept. Make room, then go on by resume=FOLDER alone.",
        ) from error


def remove_checkpoint(file: Path) -> None:
    """Remove a checkpoint and its checksum."""
    for place in (file, _checksum_file(file)):
        place.unlink(missing_ok=True)


def verify_checkpoint(file: Path) -> None:
    """Raise CheckpointError where a checkpoint is not what its .sha256 says; without one, say nothing.

    A .sha256.part counts too: of one that was killed, the file is in place before its checksum.
    """
    side = _checksum_file(file)
    sides = [place for place in (side, side.with_name(f"{side.name}.part")) if os.path.isfile(place)]
    if os.path.isfile(file) and side in sides and sha256_of_file(file) not in map(_read_digest, sides):
        raise CheckpointError(
            f"{file} is damaged: its SHA-256 is not the one in {side.name}.",
            "Use another checkpoint of the run, or train again.",
        )


def is_intact(file: Path) -> bool:
    """Say whether a checkpoint is there and is what its .sha256 says."""
    try:
        verify_checkpoint(file)
    except CheckpointError:
        return False
    return file.is_file()


def read_checkpoint(file: Path) -> dict[str, Any]:
    """Read a checkpoint, or an exported .safetensors file, as tensors and plain values, on the CPU.

    Raises CheckpointError where it is damaged, too large, or holds anything else.
    """
    if not os.path.isfile(file):
        raise CheckpointError(f"{file} is not a file.", "Expected a checkpoint, such as RUN/checkpoints/best.ckpt.")
    try:
        checkpoint = _read_export(file) if file.suffix == ".safetensors" else read_torch_file(file)
    except Exception as error:  # zip, pickle and storage errors of many types
        raise CheckpointError(
            f"{file} cannot be read as a checkpoint: {describe_error(error)}.",
            "It is damaged, or holds more than tensors and plain values, which is never loaded.",
        ) from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"{file} holds no checkpoint.")
    return checkpoint


def hash_weights(state: Mapping[str, torch.Tensor]) -> str:
    """Give the SHA-256 of all tensors by name, whatever else their file holds."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def encode_weights(net: nn.Module, texts: Mapping[str, str]) -> bytes:
    """Give a .safetensors file of a network's weights, called as in timm, of texts, and of the seal of both."""
    # clones, for safetensors takes no two tensors of one storage
    state = {name: tensor.cpu().contiguous().clone() for name, tensor in net.state_dict().items()}
    return encode_safetensors(state, {**texts, CHECKSUM_KEY: _compute_checksum(state, texts)})


def verify_checksum(state: Mapping[str, torch.Tensor], texts: dict[str, str]) -> None:
    """Take the seal out of the texts of a file; raise ValueError where it is not that of tensors and texts."""
    if texts.pop(CHECKSUM_KEY, "") != _compute_checksum(state, texts):
        raise ValueError("its SHA-256 is not the one that it states")


def _read_export(file: Path) -> dict[str, Any]:
    """Read an exported .safetensors file as the checkpoint that it was made from."""
    state, texts = read_safetensors(file)
    if CARD_KEY not in texts:
        raise ValueError("it was not exported by avatar-bench, so its classes are not known")
    verify_checksum(state, texts)
    state = {f"net.{name}": tensor for name, tensor in state.items()}
    return {"state_dict": state, CARD_KEY: read_plain_json(texts[CARD_KEY])}


def _compute_checksum(state: Mapping[str, torch.Tensor], texts: Mapping[str, str]) -> str:
    """Give the SHA-256 of an exported file's tensors, with their shapes and types, and of the texts beside them."""
    shapes = {name: (str(state[name].dtype), list(state[name].shape)) for name in sorted(state)}
    said = [shapes, hash_weights(state), sorted(texts.items())]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _checksum_file(file: Path) -> Path:
    return file.with_name(f"{file.name}.sha256")


def _save(checkpoint: dict[str, Any], part: Path) -> None:
    """Write by torch, whose own error for a full disk does not say so."""
    try:
        torch.save(checkpoint, part)
    except RuntimeError as error:
        if "PytorchStreamWriter" not in str(error) and "inline_container" not in str(error):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error


def _keep_previous(last: Path, before: Path) -> None:
    """Give the last checkpoint a second name, with its hash, before another takes the first."""
    if not last.is_file() or not _checksum_file(last).is_file():
        return
    digest = _checksum_file(last).read_text(encoding="utf-8").split()[0]
    with atomic_write(_checksum_file(before)) as side, atomic_write(before) as part:
        side.write_text(f"{digest}  {before.name}\n", encoding="utf-8")
        part.unlink(missing_ok=True)
        try:
            os.link(last, part)
        except OSError:  # a file system without links
            shutil.copyfile(last, part)


def _read_digest(side: Path) -> str:
    """Give the digest that a .sha256 states; "" where it states none."""
    with side.open("rb") as stream:
        return (stream.read(200).decode("utf-8", "replace").split() or [""])[0]
