"""Files of checkpoints: whole or not there, checked, and never unpickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from avatar_bench.errors import CheckpointError, OutputError
from avatar_bench.models.checkpoints import AtomicCheckpointIO, checksum_of, verify, weights_sha256


def test_the_hash_of_weights_is_of_names_and_values_not_of_their_order() -> None:
    one = {"a": torch.ones(2), "b": torch.zeros(2)}
    assert weights_sha256(one) == weights_sha256(dict(reversed(one.items())))
    assert weights_sha256(one) != weights_sha256({"a": torch.ones(2), "b": torch.ones(2)})
    assert weights_sha256(one) != weights_sha256({"b": torch.ones(2), "a": torch.zeros(2)})
    turned = torch.arange(4).reshape(2, 2).t()
    assert weights_sha256({"a": turned}) == weights_sha256({"a": turned.contiguous()})


def test_a_checkpoint_is_written_with_its_checksum_and_read_back(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "x.ckpt"
    AtomicCheckpointIO().save_checkpoint({"a": torch.ones(3), "b": [1, "я"]}, file)
    assert file.with_name("x.ckpt.sha256").read_text() == f"{checksum_of(file)}  x.ckpt\n"
    assert AtomicCheckpointIO().load_checkpoint(file)["b"] == [1, "я"]
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="damaged"):
        verify(file)
    AtomicCheckpointIO().remove_checkpoint(file)
    assert list(file.parent.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"),
    ],
)
def test_a_write_that_fails_leaves_the_earlier_checkpoint(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.ckpt"
    AtomicCheckpointIO().save_checkpoint({"a": 1}, file)

    def fail(given: Any, part: Path) -> None:
        part.write_bytes(b"half")
        raise error

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OutputError, match="No space"):
        AtomicCheckpointIO().save_checkpoint({"a": 2}, file)
    verify(file)
    assert AtomicCheckpointIO().load_checkpoint(file) == {"a": 1}
    assert {path.name for path in tmp_path.iterdir()} == {"x.ckpt", "x.ckpt.sha256"}


def test_the_last_checkpoint_becomes_the_one_before(tmp_path: Path) -> None:
    last, before = tmp_path / "last.ckpt", tmp_path / "before.ckpt"
    for number in range(3):
        AtomicCheckpointIO().save_checkpoint({"a": number}, last)
    assert AtomicCheckpointIO().load_checkpoint(last) == {"a": 2}
    assert AtomicCheckpointIO().load_checkpoint(before) == {"a": 1}
    assert before.with_name("before.ckpt.sha256").read_text() == f"{checksum_of(before)}  before.ckpt\n"
    AtomicCheckpointIO().save_checkpoint({"a": 0}, tmp_path / "best.ckpt")
    assert AtomicCheckpointIO().load_checkpoint(before) == {"a": 1}


def test_another_error_of_torch_is_not_taken_for_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        AtomicCheckpointIO().save_checkpoint({"a": 2}, tmp_path / "x.ckpt")
    assert list(tmp_path.iterdir()) == []
