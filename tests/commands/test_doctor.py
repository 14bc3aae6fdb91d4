"""doctor: what it shows, the problems that it finds, and its exit codes."""

import json
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch

from avatar_bench.cli.app import main
from avatar_bench.commands import doctor as module
from avatar_bench.console import machine

GB = 10**9


@pytest.fixture(autouse=True)
def _healthy(monkeypatch, tmp_path):
    """Make free space, memory and the cache independent of this machine."""
    monkeypatch.setenv("AVATAR_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module.shutil, "disk_usage", lambda place: SimpleNamespace(free=100 * GB))
    monkeypatch.setattr(module, "measure_memory", lambda: (8 * GB, 4 * GB))


def diagnose(capsys, code, *words):
    assert main(["doctor", "format=json", *words]) == code
    facts = json.loads(capsys.readouterr().out)
    assert (code == 0) == (facts["problems"] == [])
    return dict(facts)


def test_a_healthy_machine_is_shown_without_a_connection(capsys, tmp_path):
    facts = diagnose(capsys, 0)
    installed = metadata.version("torch")  # some wheels leave out the label of the build, as in +cu130
    assert facts["versions"]["torch"] == installed
    assert torch.__version__ in (installed, f"{installed}+{torch.__version__.partition('+')[2]}")
    assert facts["cache"] == {"path": str(tmp_path / "cache"), "free GB": 100}
    assert facts["weights"]["efficientnet_lite0"] == "when first used"
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in text[:3]] == ["versions", "devices", "memory"]
    assert text[-1] == "no problem found"


def test_a_package_that_is_too_old_or_missing_is_a_problem(capsys, monkeypatch):
    installed = metadata.version

    def version(name):
        if name in ("captum", "c2pa-python"):
            raise metadata.PackageNotFoundError(name)
        return "0.4.1" if name == "timm" else installed(name)

    monkeypatch.setattr(metadata, "version", version)
    facts = diagnose(capsys, 2)
    (first, what), (second, _) = sorted(facts["problems"])  # c2pa-python is of an extra
    assert first == "captum: it is missing, and <1,>=0.8 is required."
    assert what == "pip install 'captum<1,>=0.8'"
    assert second.startswith("timm: 0.4.1 is installed, and >=1")


def test_a_full_disk_and_little_memory_are_problems(capsys, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda place: SimpleNamespace(free=GB // 5))
    monkeypatch.setattr(module, "measure_memory", lambda: (GB, GB))
    facts = diagnose(capsys, 5)
    assert any("only 0.2 GB are free" in what for what, _ in facts["problems"])
    assert any(what == "Only 1.0 GB of memory may be used." for what, _ in facts["problems"])


def test_the_memory_limit_of_a_container_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    whole = machine.measure_memory()[0]
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    assert machine.measure_memory() == (1_000_000, 600_000)
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.measure_memory()[0] == whole
