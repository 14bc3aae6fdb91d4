"""Fuzzing of readers: any bytes lead to a value or to an error of ours."""

import io
import json
import zipfile
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from avatar_bench.errors import AvatarBenchError
from avatar_bench.models.checkpoint import CARD_KEY, read_checkpoint
from avatar_bench.models.classifier import Classifier
from avatar_bench.models.model_card import Card
from avatar_bench.results.predictions import Predictions
from avatar_bench.runs.ensembles import open_run
from avatar_bench.runs.record import locate_checkpoint, read_record

MUTATIONS = st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=12)), max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


def mutated(data, changes):
    for position, new in changes:
        at = position % (len(data) + 1)
        data = data[:at] + new + data[at + len(new) :]
    return data


def read_all(folder, data):
    """Run every reader of untrusted files on the same bytes; allow only errors of ours."""
    (folder / "ensembles").mkdir(exist_ok=True)
    for name in ("x.ckpt", "x.safetensors", "x.npz", "run.json", "ensembles/ensemble.json"):
        (folder / name).write_bytes(data)
    readers = [
        lambda: Classifier.load(folder / "x.ckpt"),
        lambda: Classifier.load(folder / "x.safetensors"),
        lambda: Predictions.load(folder / "x.npz"),
        lambda: read_record(folder),
        lambda: locate_checkpoint(folder),
        lambda: open_run(folder / "ensembles").card,
    ]
    for read in readers:
        with suppress(AvatarBenchError):
            read()


def zipped(pickled):
    """Return a complete archive as written by torch around a pickle, with one tensor's bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, part in {"data.pkl": pickled, "byteorder": b"little", "data/0": bytes(60), "version": b"3"}.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), part)
    return content.getvalue()


def seeds(checkpoint, card):
    """Return the bytes of one valid file of each kind."""
    names, logits, file = np.array(["x", "y"]), np.zeros((2, 2), dtype=np.float32), checkpoint.with_suffix(".npz")
    Predictions(("a", "b"), logits, logits, np.zeros(2, dtype=np.int64), names, names, names).save(file)
    member = {"run": "../x.ckpt", "checkpoint_sha256": "0", "weight": 1, "temperature": 1}
    ensemble = {"kind": "ensemble", "members": [member], "temperature": 1, "classes": ["a", "b"]}
    return [
        checkpoint.read_bytes(),
        save({"a": torch.ones(2)}, {CARD_KEY: json.dumps(card)}),
        file.read_bytes(),
        json.dumps(ensemble).encode(),
        json.dumps({"status": "finished", "data": {"root": "x", "ood": {}}, "metrics": {"val/macro_f1": 1}}).encode(),
    ]


@pytest.mark.parametrize("examples", [10, pytest.param(300, marks=pytest.mark.slow)])
def test_whatever_is_read_gives_a_value_or_an_error_of_ours(examples, small_checkpoint, card, tmp_path):
    checkpoint, fuzz = small_checkpoint(tmp_path / "seed.ckpt"), settings(max_examples=examples)
    valid = seeds(checkpoint, card)
    with zipfile.ZipFile(checkpoint) as archive:
        (pickled,) = (archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
    assert set(read_checkpoint(checkpoint)) == {"state_dict", "epoch", "rate", CARD_KEY}

    @fuzz
    @given(st.binary(max_size=300) | st.builds(mutated, st.sampled_from(valid), MUTATIONS))
    def bytes_of_any_kind(data):
        read_all(tmp_path, data)

    @fuzz
    @given(st.builds(mutated, st.just(pickled), MUTATIONS))
    def pickles_of_any_kind(data):
        read_all(tmp_path, zipped(data))

    @fuzz
    @given(st.dictionaries(st.sampled_from(sorted(card)), VALUES), VALUES)
    def cards_of_any_kind(said, more):
        with suppress(AvatarBenchError):
            Card.from_checkpoint({CARD_KEY: {**card, **said}}, tmp_path)
        read_all(tmp_path, json.dumps({**said, "members": more, "kind": "soup", "data": more}).encode())

    bytes_of_any_kind()
    pickles_of_any_kind()
    cards_of_any_kind()
