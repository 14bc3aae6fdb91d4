"""Archives with something beside, between or behind their records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from avatar_bench.errors import CheckpointError
from avatar_bench.models.checkpoints import read_checkpoint


def test_what_lies_beside_the_records_is_refused(small_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    file = small_checkpoint(tmp_path / "x.ckpt")
    data = file.read_bytes()
    read_checkpoint(file)
    for odd in (b"PK" + data, data + b"\0", data[:-2] + b"\1\0x", data + data):
        file.write_bytes(odd)
        with pytest.raises(CheckpointError):
            read_checkpoint(file)
