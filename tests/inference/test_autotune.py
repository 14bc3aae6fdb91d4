"""Settings are measured once a machine, by the first process that needs them."""

import json
import multiprocessing

import pytest
import torch

from avatar_bench.inference import autotune
from avatar_bench.inference.autotune import ComputeSettings, select_fastest, tune_inference, tune_training


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AVATAR_BENCH_CACHE", str(tmp_path))
    autotune._tune_once.cache_clear()
    return tmp_path


def test_the_fastest_is_chosen_where_it_is_clearly_faster():
    for seconds, chosen in (
        ({"32": 1.0}, "32"),
        ({"32": 1.0, "bf16": 0.5}, "bf16"),
        ({"32": 1.0, "bf16": 0.9}, "32"),  # too little for other digits
        ({"32": 1.0, "bf16": 0.5, "16": 0.4}, "16"),
        ({"8": 1.0, "4": 0.7, "2": 0.6, "1": 1.2}, "2"),
    ):
        assert select_fastest(seconds) == chosen


def test_a_trial_is_made_once_and_says_what_it_saw_and_one_that_cannot_be_kept_is_32_bits(cache, tmp_path, monkeypatch):
    before = torch.random.get_rng_state()
    choice = tune_inference("cpu")
    assert torch.equal(torch.random.get_rng_state(), before)
    (file,) = (cache / "trials").glob("*.json")
    said = json.loads(file.read_text())
    assert ComputeSettings(said["precision"], said["threads"]) == choice
    assert select_fastest(said["seconds"]["precision"]) == choice.precision
    assert said["machine"]["torch"] == torch.__version__
    file.write_text(json.dumps(said | {"precision": "bf16", "threads": 3}))  # as if it had come out otherwise
    autotune._tune_once.cache_clear()
    assert tune_inference("cpu") == ComputeSettings("bf16", 3)
    impossible = json.dumps({"precision": "32", "threads": 200_000})
    for damaged in ('{"precision": "64"}', impossible, "[" * 100_000):
        file.write_text(damaged)
        autotune._tune_once.cache_clear()
        assert tune_inference("cpu").threads < 200_000
        assert json.loads(file.read_text())["threads"] < 200_000
    (tmp_path / "file").touch()
    monkeypatch.setenv("AVATAR_BENCH_CACHE", str(tmp_path / "file"))
    autotune._tune_once.cache_clear()
    assert tune_inference("cpu").precision == "32"


@pytest.mark.slow
def test_processes_that_begin_together_choose_alike(cache):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        first, second = pool.map(tune_inference, ["cpu", "cpu"])
    assert first == second
    assert len(list((cache / "trials").glob("*.json"))) == 1


def test_a_network_has_a_trial_of_its_own_to_be_trained(cache, monkeypatch):
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.Dropout(0.5), torch.nn.Flatten(), torch.nn.Linear(8, 2)
    )
    before = [value.clone() for value in net.state_dict().values()]
    state = torch.random.get_rng_state()
    monkeypatch.setattr(autotune, "tune_inference", lambda device: ComputeSettings("32", 1))
    assert tune_training(net, "net", 3, "cpu") == "32"  # what does not pay forwards is not tried
    assert not (cache / "trials").exists()
    monkeypatch.setattr(autotune, "tune_inference", lambda device: ComputeSettings("bf16", 1))
    chosen = tune_training(net, "net", 3, "cpu")
    (file,) = (cache / "trials").glob("*.json")
    said = json.loads(file.read_text())
    assert select_fastest(said["seconds"]["precision"]) == said["precision"] == chosen
    file.write_text(json.dumps(said | {"precision": "16"}))
    assert tune_training(net, "net", 3, "cpu") == "16"
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(weights, other) for weights, other in zip(before, net.state_dict().values(), strict=True))
    assert all(parameter.grad is None for parameter in net.parameters())
