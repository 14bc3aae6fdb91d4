"""Checkpoint files: complete or missing, verified, and never unpickled."""

import os
import random
import shutil
from collections import Counter
from itertools import count, product
from pathlib import Path

import numpy as np
import pytest
import torch

from avatar_bench.errors import CheckpointError, OutputError
from avatar_bench.files.hashes import sha256_of_file
from avatar_bench.models.checkpoint import hash_weights, read_checkpoint, verify_checkpoint, write_checkpoint
from avatar_bench.runs.run import Run
from avatar_bench.training.checkpoints import AtomicCheckpointIO


def test_the_hash_of_weights_is_of_names_and_values_not_of_their_order():
    state = {"a": torch.ones(2), "b": torch.zeros(2)}
    assert hash_weights(state) == hash_weights(dict(reversed(state.items())))
    assert hash_weights(state) != hash_weights({"a": torch.ones(2), "b": torch.ones(2)})
    assert hash_weights(state) != hash_weights({"b": torch.ones(2), "a": torch.zeros(2)})
    turned = torch.arange(4).reshape(2, 2).t()
    assert hash_weights({"a": turned}) == hash_weights({"a": turned.contiguous()})


def test_a_checkpoint_is_read_back_with_its_checksum_and_the_last_becomes_the_one_before(tmp_path):
    file = tmp_path / "deep" / "x.ckpt"
    AtomicCheckpointIO().save_checkpoint({"a": torch.ones(3), "b": [1, "я"]}, file)
    assert file.with_name("x.ckpt.sha256").read_text() == f"{sha256_of_file(file)}  x.ckpt\n"
    assert AtomicCheckpointIO().load_checkpoint(file)["b"] == [1, "я"]
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="damaged"):
        verify_checkpoint(file)
    for odd in (b"", b"\xff\xfe", b"0" * 1000):
        file.with_name("x.ckpt.sha256").write_bytes(odd)
        with pytest.raises(CheckpointError, match="damaged"):
            verify_checkpoint(file)
    AtomicCheckpointIO().remove_checkpoint(file)
    assert list(file.parent.iterdir()) == []
    last, before = tmp_path / "last.ckpt", tmp_path / "before.ckpt"
    for number in range(3):
        AtomicCheckpointIO().save_checkpoint({"a": number}, last)
    assert AtomicCheckpointIO().load_checkpoint(last) == {"a": 2}
    assert AtomicCheckpointIO().load_checkpoint(before) == {"a": 1}
    assert before.with_name("before.ckpt.sha256").read_text() == f"{sha256_of_file(before)}  before.ckpt\n"
    AtomicCheckpointIO().save_checkpoint({"a": 0}, tmp_path / "best.ckpt")
    assert AtomicCheckpointIO().load_checkpoint(before) == {"a": 1}


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"),
    ],
)
def test_a_write_that_fails_leaves_the_earlier_checkpoint(error, tmp_path, monkeypatch):
    file = tmp_path / "x.ckpt"
    AtomicCheckpointIO().save_checkpoint({"a": 1}, file)

    def fail(content, part):
        part.write_bytes(b"half")
        raise error

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OutputError, match="No space") as caught:
        AtomicCheckpointIO().save_checkpoint({"a": 2}, file)
    assert caught.value.lines[1].endswith("continue with resume=FOLDER alone.")  # further options are refused
    verify_checkpoint(file)
    assert AtomicCheckpointIO().load_checkpoint(file) == {"a": 1}
    assert {path.name for path in tmp_path.iterdir()} == {"x.ckpt", "x.ckpt.sha256"}


def best(run):
    return run / "checkpoints" / "best.ckpt"


def same(left, right):
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return left.dtype == right.dtype and torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right


def damages(data, seed, flips):
    """Return the content with one bit flipped, truncated, or with a run of zeros in it."""
    rng = np.random.default_rng(seed)
    for bit in rng.integers(0, 8 * len(data), flips).tolist():
        yield data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]
    for start in rng.integers(0, len(data), flips // 3).tolist():
        yield data[:start]
        yield data[:start] + bytes(64) + data[start + 64 :]


def count_outcomes(file, spoilt, read):
    """Count the damaged files that are refused, that read as before, and that read otherwise."""
    whole, outcomes = read(file), Counter[str]()
    for data in spoilt:
        file.write_bytes(data)
        try:
            outcomes["same" if same(read(file), whole) else "silent"] += 1
        except CheckpointError:
            outcomes["refused"] += 1
    return outcomes


def test_damage_is_refused_or_changes_nothing_and_none_passes_a_checksum(small_checkpoint, tmp_path):
    file = small_checkpoint(tmp_path / "x.ckpt")
    content, data = torch.load(file, weights_only=True), file.read_bytes()
    outcomes = count_outcomes(file, damages(data, 0, 90), read_checkpoint)
    assert (outcomes["silent"], outcomes.total()) == (0, 150)
    assert outcomes["refused"] > 90
    AtomicCheckpointIO().save_checkpoint(content, file)
    data = file.read_bytes()
    spoilt = (damaged for damaged in damages(data, 1, 60) if damaged != data)
    assert set(count_outcomes(file, spoilt, AtomicCheckpointIO().load_checkpoint)) == {"refused"}


def write_until_killed(folder, value, step):
    """Write last.ckpt in a process that is killed before its `step`-th change of the folder; return whether it was."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    changes = count(1)

    def interrupted(call):
        return lambda *args, **options: os._exit(9) if next(changes) == step else call(*args, **options)

    for owner, name in ((Path, "replace"), (Path, "unlink"), (Path, "write_text"), (os, "link")):
        setattr(owner, name, interrupted(getattr(owner, name)))
    write_checkpoint({"a": value}, folder / "last.ckpt")
    os._exit(0)


@pytest.mark.slow
def test_kills_at_two_moments_of_writing_leave_whole_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)

    def start(name):
        for value in (1, 2):
            write_checkpoint({"a": value}, tmp_path / name / "last.ckpt")
        return tmp_path / name

    moments = [step for step in range(1, 30) if write_until_killed(start(f"{step}"), 3, step)]
    assert len(moments) > 5
    for first, second in random.Random(0).sample(list(product(moments, repeat=2)), 12):
        folder = start(f"{first}_{second}")
        assert write_until_killed(folder, 3, first)
        write_until_killed(folder, 4, second)
        for name, least in (("last.ckpt", 2), ("before.ckpt", 1)):
            verify_checkpoint(folder / name)
            assert read_checkpoint(folder / name)["a"] >= least


def test_a_checkpoint_that_its_run_does_not_know_is_refused(run_copy, tmp_path):
    other = read_checkpoint(best(run_copy))
    other["state_dict"]["net.fc.bias"] += 1
    AtomicCheckpointIO().save_checkpoint(other, best(run_copy))
    with pytest.raises(CheckpointError, match=r"run\.json"):
        Run.open(run_copy).card  # noqa: B018
    Run.open(shutil.copy(best(run_copy), tmp_path / "alone.ckpt")).card  # noqa: B018
