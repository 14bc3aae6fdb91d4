"""Checkpoint files: atomic writing with a checksum, and reading as plain data only."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from avatar_bench.errors import CheckpointError, OutputError
from avatar_bench.files.atomic_write import atomic_write, write_text
from avatar_bench.files.document import parse_json
from avatar_bench.files.hashes import sha256_of_file, sha256_of_parts, sha256_of_text
from avatar_bench.models import weight_formats

BEST_CHECKPOINT = "best.ckpt"
LAST_CHECKPOINT = "last.ckpt"
PREVIOUS_CHECKPOINT = "before.ckpt"  # the one before the last
CARD_KEY = "avatar_bench"  # of the card in a checkpoint
CHECKSUM_KEY = "sha256"  # of the hash of texts and weights in an exported file


def write_checkpoint(checkpoint: dict[str, Any], file: Path) -> None:
    """Write a checkpoint and its .sha256 atomically, keeping last.ckpt as before.ckpt; raise OutputError on failure."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(_checksum_file(file)) as side, atomic_write(file) as part:
            _save(checkpoint, part)
            side.write_text(f"{sha256_of_file(part)}  {file.name}\n", encoding="utf-8")
            if file.name == LAST_CHECKPOINT:
                _keep_previous(file, file.with_name(PREVIOUS_CHECKPOINT))
            # a process killed between the two renames leaves no checksum, instead of the earlier file's
            _checksum_file(file).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"{file} cannot be written: {error.strerror or error}.",
            "Earlier checkpoints are kept. Free some space, then continue with resume=FOLDER alone.",
        ) from error


def remove_checkpoint(file: Path) -> None:
    """Remove a checkpoint and its checksum."""
    for path in (file, _checksum_file(file)):
        path.unlink(missing_ok=True)


def verify_checkpoint(file: Path) -> None:
    """Raise CheckpointError if a checkpoint does not match its .sha256; accept a checkpoint without one."""
    side = _checksum_file(file)
    if os.path.isfile(file) and os.path.isfile(side) and sha256_of_file(file) != _read_digest(side):
        reason = f"{file} is damaged: its SHA-256 differs from the one in {side.name}."
        raise CheckpointError(reason, "Use another checkpoint of the run, or train again.")


def is_intact(file: Path) -> bool:
    """Check whether a checkpoint exists and matches its .sha256."""
    try:
        verify_checkpoint(file)
    except CheckpointError:
        return False
    return file.is_file()


def read_checkpoint(file: Path) -> dict[str, Any]:
    """Read a checkpoint or exported .safetensors as tensors on the CPU and plain values; raise CheckpointError."""
    if not os.path.isfile(file):
        raise CheckpointError(f"{file} is not a file.", "Expected a checkpoint, such as RUN/checkpoints/best.ckpt.")
    if file.suffix == ".onnx":
        reason = f"{file} is an exported network, not a checkpoint."
        raise CheckpointError(reason, f"Make it a run: avatar-bench import kind=onnx file={file} out=RUN")
    try:
        checkpoint = _read_export(file) if file.suffix == ".safetensors" else weight_formats.read_torch_file(file)
    except Exception as error:  # zip, pickle and storage errors of many types
        raise CheckpointError(
            f"{file} cannot be read as a checkpoint: {weight_formats.describe_error(error)}.",
            "It is damaged, or contains more than tensors and plain values; nothing else is loaded.",
            "Expected checkpoints/best.ckpt of a run folder, or a .safetensors file of export; else: import --help",
        ) from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"{file} is not a checkpoint.")
    return checkpoint


def hash_weights(state: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of all tensors in order of their names; other contents of the file do not count."""
    tensors = ((name.encode(), state[name].cpu().contiguous().numpy().tobytes()) for name in sorted(state))
    return sha256_of_parts(part for pair in tensors for part in pair)


def encode_weights(net: nn.Module, texts: Mapping[str, str]) -> bytes:
    """Return the contents of a .safetensors file with a network's weights under timm's names, texts, and a checksum."""
    # clones: safetensors refuses tensors that share storage
    state = {name: tensor.cpu().contiguous().clone() for name, tensor in net.state_dict().items()}
    return weight_formats.encode_safetensors(state, {**texts, CHECKSUM_KEY: _compute_checksum(state, texts)})


def verify_checksum(state: Mapping[str, torch.Tensor], texts: dict[str, str]) -> None:
    """Remove the checksum from the texts of a file; raise ValueError if tensors and texts do not match it."""
    if texts.pop(CHECKSUM_KEY, "") != _compute_checksum(state, texts):
        raise ValueError("its contents do not match its SHA-256")


def _read_export(file: Path) -> dict[str, Any]:
    """Read an exported .safetensors file in the form of the original checkpoint."""
    state, texts = weight_formats.read_safetensors(file)
    if CARD_KEY not in texts:
        raise ValueError("it was not exported by avatar-bench, so its classes are unknown")
    verify_checksum(state, texts)
    state = {f"net.{name}": tensor for name, tensor in state.items()}
    return {"state_dict": state, CARD_KEY: parse_json(texts[CARD_KEY])}


def _compute_checksum(state: Mapping[str, torch.Tensor], texts: Mapping[str, str]) -> str:
    """Return the SHA-256 of an exported file's tensors, their shapes and types, and its texts."""
    shapes = {name: (str(state[name].dtype), list(state[name].shape)) for name in sorted(state)}
    return sha256_of_text(json.dumps([shapes, hash_weights(state), sorted(texts.items())]))


def _checksum_file(file: Path) -> Path:
    return file.with_name(f"{file.name}.sha256")


def _save(checkpoint: dict[str, Any], part: Path) -> None:
    """Save with torch; raise OSError for a full disk, which torch's own error does not mention."""
    try:
        torch.save(checkpoint, part)
    except RuntimeError as error:
        if "PytorchStreamWriter" not in str(error) and "inline_container" not in str(error):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error


def _keep_previous(last: Path, before: Path) -> None:
    """Link the last checkpoint, and copy its checksum if it has one, to a second name before it is replaced."""
    if not last.is_file():
        return
    with atomic_write(before) as part:
        part.unlink(missing_ok=True)
        try:
            os.link(last, part)
        except OSError:  # a file system without links
            shutil.copyfile(last, part)
        _checksum_file(before).unlink(missing_ok=True)
    if _checksum_file(last).is_file():
        write_text(_checksum_file(before), f"{_read_digest(_checksum_file(last))}  {before.name}\n")


def _read_digest(side: Path) -> str:
    with side.open("rb") as stream:
        return (stream.read(200).decode("utf-8", "replace").split() or [""])[0]
