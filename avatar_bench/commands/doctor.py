"""doctor: show what is installed and available on this machine, and what is wrong with it."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

import avatar_bench
from avatar_bench.config.catalogue import find_choices
from avatar_bench.config.options import option
from avatar_bench.config.schema import choose
from avatar_bench.console.machine import count_cores, measure_memory
from avatar_bench.console.terminal import escape_control_characters, format_count, print_line
from avatar_bench.errors import AvatarBenchError, ConfigError, OutputError
from avatar_bench.files.document import read_yaml
from avatar_bench.files.package_files import find_archive_folder
from avatar_bench.files.paths import cache_root

_SHOWN = ("torch", "torchvision", "timm")  # packages whose versions matter most
_MEMORY_GB = 2.0  # with less, a small training is likely to fail
_PLACES = {  # that commands write to, the GB that they need there, and what to do where there are fewer
    "cache": (cache_root, 2.0, "Choose another folder: AVATAR_BENCH_CACHE=DIR"),
    "this folder": (Path.cwd, 2.0, "Work in another folder."),
    "shared memory": (lambda: Path("/dev/shm"), 0.5, "Use data.workers=0, or docker run --shm-size=2g."),
}


@dataclass
class DoctorConfig:
    format: str = option("text", help="of the output", **choose("text", "json"))


def execute(settings: DoctorConfig) -> None:
    """Print the state of the installation and the machine, as text or JSON.

    Raise ConfigError if packages cannot be used, else OutputError if disk, cache or memory cannot.
    """
    facts: dict[str, Any] = {}
    problems = [*_examine_packages(facts), *_examine_machine(facts)]
    if settings.format == "json":
        print(json.dumps(facts | {"problems": [list(problem.lines) for problem in problems]}, indent=1), flush=True)
    else:
        for name, values in facts.items():
            print_line(f"{name:13} {'; '.join(f'{key}: {value}' for key, value in values.items())}")
        for problem in problems:
            print("", *map(escape_control_characters, problem.lines), sep="\n", flush=True)
        if not problems:
            print("\nno problem found")
    if problems:
        kind = ConfigError if any(isinstance(problem, ConfigError) for problem in problems) else OutputError
        raise kind(f"{format_count(len(problems), 'problem')}, described above.")


def _examine_packages(facts: dict[str, Any]) -> Iterator[AvatarBenchError]:
    """Yield the problems of packages that are missing or too old; add the versions that matter most to the facts."""
    facts["versions"] = {"avatar-bench": avatar_bench.__version__, "python": platform.python_version()}
    try:
        required = [Requirement(line) for line in metadata.requires("avatar-bench") or []]
    except metadata.PackageNotFoundError:
        yield ConfigError("avatar-bench is not installed: this Python only finds its folder.", "pip install .")
        return
    for requirement in required:
        is_extra = requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            version = ""
        if requirement.name in _SHOWN:
            facts["versions"][requirement.name] = version
        if not requirement.specifier.contains(version or "0", prereleases=True) and (version or not is_extra):
            state = f"{version} is installed" if version else "it is missing"
            reason = f"{requirement.name}: {state}, and {requirement.specifier or 'any version'} is required."
            yield ConfigError(reason, f"pip install '{requirement.name}{requirement.specifier}'")


def _examine_machine(facts: dict[str, Any]) -> Iterator[OutputError | ConfigError]:
    """Yield what memory, folders or torch lack; add them, and the pretrained weights that can be had, to the facts."""
    facts["devices"] = {"cores": count_cores(), "cores of the machine": os.cpu_count()}
    try:
        import torch

        count = torch.cuda.device_count()
        facts["devices"]["GPUs"] = ", ".join(map(torch.cuda.get_device_name, range(count))) or "none"
    except Exception as error:  # a missing library of the system, of several types
        yield ConfigError(f"torch cannot be imported: {' '.join(str(error).split())[:200]}")
    usable, free = (round(size / 1e9, 1) for size in measure_memory())
    facts["memory"] = {"usable GB": usable, "free GB": free}
    if usable < _MEMORY_GB:
        yield OutputError(f"Only {usable} GB of memory may be used.", "Use data.workers=0 and a small data.batch_size.")
    for name, (find_place, needed, advice) in _PLACES.items():
        target = find_place()
        there = next(folder for folder in (target, *target.parents) if folder.exists())
        facts[name] = {"path": str(target), "free GB": round(shutil.disk_usage(there).free / 1e9, 1)}
        if not (there.is_dir() and os.access(there, os.W_OK)):
            yield OutputError(f"{target} cannot be written.", advice)
        elif facts[name]["free GB"] < needed:
            yield OutputError(f"{target}: only {facts[name]['free GB']} GB are free.", advice)
    models = {name: read_yaml(file).get("model", {}).get("package") for name, file in find_choices("model").items()}
    packages = {name: package for name, package in models.items() if package}
    cached = {
        name
        for name, about in packages.items()
        if find_archive_folder(about["distribution"], about["version"]).is_dir()
    }
    facts["weights"] = {name: "here" if name in cached else "when first used" for name in packages}
