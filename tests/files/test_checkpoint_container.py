"""Archives with something before or behind them, or whose directory is not what their records are."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from avatar_bench.errors import CheckpointError
from avatar_bench.models.checkpoint import read_checkpoint


def test_what_lies_before_or_behind_is_refused(small_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    file = small_checkpoint(tmp_path / "x.ckpt")
    data = file.read_bytes()
    read_checkpoint(file)
    for odd in (b"PK" + data, data + b"\0", data[:-2] + b"\1\0x", data + data):
        file.write_bytes(odd)
        with pytest.raises(CheckpointError):
            read_checkpoint(file)


def test_a_record_that_claims_to_be_a_folder_is_refused(small_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    file = small_checkpoint(tmp_path / "x.ckpt")
    data = bytearray(file.read_bytes())
    entry = data.rindex(b"x/data/0") - 46  # of the directory: torch would take the tensor's bytes for none
    data[entry + 38] |= 0x10
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match="attributes"):
        read_checkpoint(file)


def test_a_tensor_that_claims_more_than_its_record_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(10.0)}, tmp_path / "x.ckpt")
    with zipfile.ZipFile(tmp_path / "x.ckpt") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    pickled = parts["x/data.pkl"]
    for old, new in ((b"K\ntq", b"M\x00\x40tq"), (b"K\n\x85", b"M\x00\x40\x85")):
        assert old in pickled
        parts["x/data.pkl"] = pickled.replace(old, new)
        with zipfile.ZipFile(tmp_path / "y.ckpt", "w") as archive:
            for name, content in parts.items():
                archive.writestr(zipfile.ZipInfo(name), content)
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_checkpoint(tmp_path / "y.ckpt")
