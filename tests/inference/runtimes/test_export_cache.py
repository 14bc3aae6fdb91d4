"""Tests of the cache of exported networks."""

import os

import pytest

from avatar_bench.inference import autotune
from avatar_bench.inference.runtimes import ExportedNetwork, find_missing_package

if find_missing_package("onnx") or find_missing_package("openvino"):
    pytest.skip("the extras export and openvino are not installed", allow_module_level=True)

NETWORK = ExportedNetwork(b"graph", b"\0weights", "слово")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("AVATAR_BENCH_CACHE", str(tmp_path))
    return tmp_path / "networks"


def never():
    raise AssertionError("it was to be kept")


def test_a_network_is_made_once_for_each_checkpoint_runtime_kind_and_version(monkeypatch):
    keys = [("openvino", "a", "float"), ("openvino", "a", "int8"), ("openvino", "b", "float"), ("onnx", "a", "float")]
    made = {key: ExportedNetwork(repr(key).encode()) for key in keys}
    for key in keys:
        autotune.load_or_export(*key, lambda key=key: made[key])
    assert all(autotune.load_or_export(*key, never) == made[key] for key in keys)
    monkeypatch.setattr("avatar_bench.__version__", "0")
    with pytest.raises(AssertionError, match="kept"):
        autotune.load_or_export(*keys[0], never)


@pytest.mark.parametrize("spoil", [lambda data: data[:-1], lambda data: data[:50] + b"?" + data[51:], lambda data: b""])
def test_a_damaged_file_is_made_anew(spoil, folder):
    autotune.load_or_export("openvino", "a", "float", lambda: NETWORK)
    file = next(folder.iterdir())
    whole = file.read_bytes()
    file.write_bytes(spoil(whole))
    assert autotune.load_or_export("openvino", "a", "float", lambda: NETWORK) == NETWORK
    assert [file_left.read_bytes() for file_left in folder.iterdir()] == [whole]


def test_those_used_longest_ago_go_first(folder, monkeypatch):
    network = ExportedNetwork(b"0" * 1000)
    for name in "abc":
        autotune.load_or_export("openvino", name, "float", lambda: network)
        for age, file in enumerate(sorted(folder.iterdir(), key=lambda kept: kept.stat().st_mtime, reverse=True)):
            os.utime(file, (1e9 - age, 1e9 - age))
    autotune.load_or_export("openvino", "a", "float", never)
    monkeypatch.setattr(autotune, "MAX_CACHE_BYTES", 3 * max(file.stat().st_size for file in folder.iterdir()))
    autotune.load_or_export("openvino", "d", "float", lambda: network)
    assert len(list(folder.iterdir())) == 3
    for name in "acd":
        autotune.load_or_export("openvino", name, "float", never)


def test_a_cache_that_cannot_be_written_does_not_stop_the_export(folder):
    folder.write_bytes(b"a file where the folder should be")
    assert autotune.load_or_export("openvino", "a", "float", lambda: NETWORK) == NETWORK
