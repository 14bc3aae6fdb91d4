"""Allowed contents of tensor files, and payloads that must never run."""

import pickle
import shutil
import zipfile
from collections import OrderedDict
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch

from avatar_bench.errors import CheckpointError
from avatar_bench.models.checkpoint import CARD_KEY, read_checkpoint
from avatar_bench.models.classifier import Classifier
from avatar_bench.results.predictions import Predictions
from avatar_bench.runs.ensembles import open_run
from tests.builders.archives import write_tar


class Payload:
    """Leave a file behind when unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path("was_here"),))


class PayloadTensor(torch.Tensor):
    """A tensor whose unpickling leaves a file behind."""

    def __reduce_ex__(self, protocol):
        return (Path.touch, (Path("was_here"),))


def _zip(file, pickled, more=None, method=zipfile.ZIP_STORED):
    parts = {"data.pkl": pickled, "byteorder": b"little", "version": b"3\n", **(more or {})}
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in parts.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), content, method)


def _called(function, argument):
    """Return a pickle that calls a function by its name."""
    module, name = function.rsplit(".", 1)
    return (
        f"\x80\x02c{module}\n{name}\nX".encode() + len(argument).to_bytes(4, "little") + argument.encode() + b"\x85R."
    )


TAR_PARTS = ("pickle", "storages", "tensors", "sys_info")
PAYLOADS = {
    "plain": lambda file: file.write_bytes(pickle.dumps(Payload())),
    "torch": lambda file: torch.save(Payload(), file),
    "within a state dict": lambda file: torch.save({"state_dict": {"a": Payload()}}, file),
    "as a class name": lambda file: torch.save({CARD_KEY: {"classes": ["a", Payload()]}}, file),
    "tensor": lambda file: torch.save({"a": PayloadTensor()}, file),
    "hook": lambda file: torch.save({"a": OrderedDict(a=Payload())}, file),
    "legacy": lambda file: torch.save({"a": Payload()}, file, _use_new_zipfile_serialization=False),
    "tar": lambda file: write_tar(file, dict.fromkeys(TAR_PARTS, pickle.dumps(Payload())), "w"),
    "zip": lambda file: _zip(file, pickle.dumps(Payload(), protocol=2)),
    "torchscript": lambda file: _zip(file, pickle.dumps({}, protocol=2), {"constants.pkl": pickle.dumps(Payload())}),
    "joblib": lambda file: joblib.dump({"a": Payload()}, file),
    "numpy": lambda file: np.savez(file.open("wb"), a=np.array([Payload()], dtype=object)),
    "os.system": lambda file: _zip(file, _called("os.system", "touch was_here")),
    "exec": lambda file: _zip(file, _called("builtins.exec", "open('was_here', 'w')")),
    "torch.load": lambda file: _zip(file, _called("torch.load", "other.ckpt")),
    "sympy": lambda file: _zip(file, _called("sympy.sympify", "open('was_here', 'w')")),
}
OTHER_PLACES = (".pt", ".pth", ".bin", ".safetensors", ".npz", ".ckpt")


@pytest.mark.parametrize("forced", ["no", "yes", "both"])
@pytest.mark.parametrize("name", PAYLOADS)
def test_no_payload_runs(name, forced, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "0" if forced == "no" else "1")
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1" if forced == "both" else "0")
    Path("other.ckpt").write_bytes(pickle.dumps(Payload()))
    PAYLOADS[name](Path("x.ckpt"))
    for ending in OTHER_PLACES:
        copy = Path(f"copy{ending}")
        copy.write_bytes(Path("x.ckpt").read_bytes())
        with pytest.raises(CheckpointError):
            Classifier.load(copy)
        with pytest.raises(CheckpointError):
            Predictions.load(copy)
    shutil.copy("x.ckpt", "ensemble.json")
    with pytest.raises(CheckpointError):
        open_run(".")
    assert not Path("was_here").exists()


def test_what_others_allow_torch_to_load_is_not_loaded_either(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Payload()}, "x.ckpt")
    allowed = [(Path.touch, "pathlib.Path.touch"), Path.touch, Path, getattr]
    with torch.serialization.safe_globals(allowed), pytest.raises(CheckpointError):
        read_checkpoint(Path("x.ckpt"))
    assert not Path("was_here").exists()


def test_values_that_no_checkpoint_needs_and_bombs_are_refused(tmp_path):
    tensors = torch.ones(1).expand(10**9), torch.empty(10**9, device="meta"), torch.eye(3).to_sparse()
    for value in (*tensors, bytearray(10), {1, 2}, 1j, torch.float32, torch.Size([1])):
        torch.save({"a": [value]}, tmp_path / "x.ckpt")
        with pytest.raises(CheckpointError):
            read_checkpoint(tmp_path / "x.ckpt")
    for name in BOMBS:
        BOMBS[name](tmp_path / "x.ckpt")
        with pytest.raises(CheckpointError):
            read_checkpoint(tmp_path / "x.ckpt")


# a list with twice the same list, with twice the same list, and so on, 60 levels deep
LAUGHS = b"\x80\x02]" + b"".join(b"q\x00]q\x01(h\x00h\x00e" for _ in range(60)) + b"."


BOMBS = {
    "packed": lambda file: _zip(file, pickle.dumps({}, protocol=2), {"data/0": bytes(10**7)}, zipfile.ZIP_DEFLATED),
    "laughs": lambda file: _zip(file, LAUGHS),
    "buffer": lambda file: _zip(file, b"\x80\x02c__builtin__\nbytearray\n\x8a\x06\x00\x00\x00\x00\x00\x10\x85R."),
    "deep": lambda file: _zip(file, b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b"."),
    "itself": lambda file: _zip(file, b"\x80\x02]q\x00h\x00a."),
    "long": lambda file: _zip(file, b"\x80\x02" + b"}" * 9 * 2**20 + b"."),
}
