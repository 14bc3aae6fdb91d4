"""doctor: show what is installed and available on this machine, and what is wrong with it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.constants import ENDPOINT, HF_HUB_CACHE
from packaging.requirements import Requirement

import avatar_bench
from avatar_bench.config.catalogue import find_choices
from avatar_bench.config.options import option
from avatar_bench.config.schema import choose
from avatar_bench.console.machine import count_cores, measure_memory
from avatar_bench.console.terminal import escape_control_characters, format_count, print_line
from avatar_bench.errors import AvatarBenchError, ConfigError, OutputError
from avatar_bench.files.package_files import find_archive_folder
from avatar_bench.files.paths import cache_root
from avatar_bench.files.yaml_io import read_yaml

_FREE_GB, _MEMORY_GB, _SHARED_GB = 2, 2, 0.5  # with less, a small training is likely to fail
_SHARED_MEMORY = Path("/dev/shm")
_CONTRIBUTORS = ("dev", "docs")  # extras that no user misses
_SHOWN = ("torch", "torchvision", "timm")  # packages whose versions matter most
_VARIABLES = ("AVATAR_BENCH_CACHE", "CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "OMP_NUM_THREADS")

Facts = dict[str, dict[str, Any]]
Problems = list[AvatarBenchError]


@dataclass
class DoctorConfig:
    hub: bool = option(False, help="connect to the Hugging Face hub, to see whether it can be reached")
    format: str = option("text", help="of the output", **choose("text", "json"))


def execute(settings: DoctorConfig) -> None:
    """Print the state of the installation and the machine, as text or JSON.

    Raise ConfigError if packages, devices or the hub cannot be used, else OutputError if disk, cache or memory cannot.
    """
    problems: Problems = []
    facts = _describe_packages(problems) | _describe_machine(problems) | _describe_folders(problems)
    facts["weights"] = _describe_weights(settings.hub, problems)
    if settings.format == "json":
        facts |= {"problems": [list(problem.lines) for problem in problems]}  # type: ignore[dict-item]
        print(json.dumps(facts, indent=1, ensure_ascii=False))
    else:
        for name, values in facts.items():
            texts = {key: ", ".join(item) or "none" if isinstance(item, list) else item for key, item in values.items()}
            print_line(f"{name:13} " + ("; ".join(f"{key}: {text}" for key, text in texts.items()) or "none"))
        for problem in problems:
            print("", *map(escape_control_characters, problem.lines), sep="\n")
        if not problems:
            print("\nno problem found")
    sys.stdout.flush()  # before the error on standard error
    if problems:
        kind = ConfigError if any(isinstance(problem, ConfigError) for problem in problems) else OutputError
        raise kind(f"{format_count(len(problems), 'problem')}, described above.")


def _describe_packages(problems: Problems) -> Facts:
    """Return the versions that matter most and the extras, with what they lack, by the metadata of this package."""
    required: list[Requirement] = []
    extras = [""]  # the first is of all users
    try:
        known = metadata.metadata("avatar-bench")
        required = [Requirement(line) for line in known.get_all("Requires-Dist", [])]
        extras += [name for name in known.get_all("Provides-Extra", []) if name not in _CONTRIBUTORS]
    except metadata.PackageNotFoundError:
        reason = "avatar-bench is not installed: this Python only finds its folder."
        problems.append(ConfigError(reason, "In the clone: pip install ."))
    installed: dict[str, str | None] = {}
    lacking: dict[str, list[str]] = {}
    for extra in extras:
        for requirement in required:
            of_extra, of_all = (
                requirement.marker is None or requirement.marker.evaluate({"extra": name}) for name in (extra, "")
            )
            if requirement.name == "avatar-bench" or not of_extra or (extra and of_all):
                continue
            version = None
            with suppress(metadata.PackageNotFoundError):
                version = metadata.version(requirement.name)
            if extra:
                lacking.setdefault(extra, []).extend([] if version else [requirement.name])
            is_accepted = requirement.specifier.contains(version, prereleases=True) if version else bool(extra)
            if requirement.name not in installed and not is_accepted:
                state = f"{version} is installed" if version else "it is missing"
                reason = f"{requirement.name}: {state}, and {requirement.specifier or 'any version'} is required."
                problems.append(ConfigError(reason, f"pip install '{requirement.name}{requirement.specifier}'"))
            installed.setdefault(requirement.name, version)
    system = {"python": platform.python_version(), "system": platform.platform(terse=True)}
    shown = {name: installed[name] or "missing" for name in _SHOWN if name in installed}
    return {
        "versions": {"avatar-bench": avatar_bench.__version__, **system, **shown},
        "extras": {
            "installed": [name for name, lacks in lacking.items() if not lacks],
            "not installed": [f"{name} ({' '.join(lacks)})" for name, lacks in lacking.items() if lacks],
        },
    }


def _describe_machine(problems: Problems) -> Facts:
    """Return the cores, threads and GPUs that can be used, the memory, and variables that change what commands do."""
    devices: dict[str, Any] = {"cores": count_cores(), "cores of the machine": os.cpu_count()}
    try:
        import torch
    except Exception as error:  # a missing library of the system, of several types
        reason = f"torch cannot be imported: {' '.join(str(error).split())[:200]}"
        problems.append(ConfigError(reason, "pip install --force-reinstall torch torchvision"))
    else:
        cards = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
        gpus = [f"{card.name} ({card.total_memory / 1e9:.0f} GB)" for card in cards]
        devices["torch threads"] = torch.get_num_threads()
        devices["GPUs"] = gpus or ["mps"] * torch.backends.mps.is_available()
        if not gpus and shutil.which("nvidia-smi") and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
            built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU alone"
            reason = (
                f"There is a GPU driver (nvidia-smi), and torch {torch.__version__}, built for {built}, cannot use it."
            )
            problems.append(ConfigError(reason, "Install a build of torch that fits the driver, see docs/install.md."))
    usable, free = (round(size / 1e9, 1) for size in measure_memory())
    if usable < _MEMORY_GB:
        advice = "Allow more, or use data.workers=0 and a small data.batch_size."
        problems.append(OutputError(f"Only {usable} GB of memory may be used.", advice))
    environment = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    return {"devices": devices, "memory": {"usable GB": usable, "free GB": free}, "environment": environment}


def _describe_folders(problems: Problems) -> Facts:
    """Return the path of each folder, its free space and, of a cache, its size."""
    places = {  # that commands write to, with what to do where one cannot be written
        "cache": (cache_root(), "Choose another folder: AVATAR_BENCH_CACHE=DIR"),
        "hub cache": (Path(HF_HUB_CACHE), "Choose another folder: HF_HOME=DIR"),
        "this folder": (Path.cwd(), "Work in another folder."),
    }
    if _SHARED_MEMORY.is_dir():
        advice = "Processes that load images need it: make it a tmpfs of mode 1777."
        places["shared memory"] = (_SHARED_MEMORY, advice)
    facts = {}
    for name, (path, advice) in places.items():
        there = next(folder for folder in (path, *path.parents) if folder.exists())
        free = round(shutil.disk_usage(there).free / 1e9, 1)
        if not (there.is_dir() and os.access(there, os.W_OK)):
            problems.append(OutputError(f"{path} cannot be written.", advice))
        elif name == "shared memory" and free < _SHARED_GB:
            needs = "Loading images in processes needs it: use data.workers=0, or docker run --shm-size=2g."
            problems.append(OutputError(f"{path}, the shared memory, has only {free} GB free.", needs))
        elif name != "shared memory" and free < _FREE_GB:
            problems.append(OutputError(f"{path}: only {free} GB are free.", "Free some space, or use another disk."))
        size = 0
        for file in path.rglob("*") if "cache" in name else ():
            with suppress(OSError):  # deleted meanwhile
                size += file.lstat().st_size * (file.is_file() and not file.is_symlink())
        sizes = {"size GB": round(size / 1e9, 1)} if "cache" in name else {}
        facts[name] = {"path": str(path), **sizes, "free GB": free}
    return facts


def _describe_weights(ask_hub: bool, problems: Problems) -> dict[str, Any]:
    """Return which pretrained weights can be had: from packages, and from the hub, which is asked only on request."""
    models = {name: read_yaml(file).get("model", {}) for name, file in find_choices("model").items()}
    packages = {name: model["package"] for name, model in models.items() if model.get("package")}
    is_cached = {
        name: find_archive_folder(about["distribution"], about["version"]).is_dir() for name, about in packages.items()
    }
    from_hub: list[str] = []
    with suppress(huggingface_hub.CacheNotFound):
        from_hub = sorted(
            about.repo_id for about in huggingface_hub.scan_cache_dir().repos if about.repo_type == "model"
        )
    hub = "not asked (hub=true asks it)"
    if ask_hub:
        try:
            huggingface_hub.get_session().head(ENDPOINT, timeout=5)
            hub = f"{ENDPOINT} answers"
        except Exception:  # of requests or httpx, depending on the client's version
            hub = f"{ENDPOINT} does not answer"
            advice = "Use a model of a package, see `weights` above, or a file: model.weights=PATH"
            problems.append(ConfigError(f"{hub}.", advice))
    return {
        "from pip, cached": [name for name, is_there in is_cached.items() if is_there],
        "from pip, when first used": [name for name, is_there in is_cached.items() if not is_there],
        "hub": hub,
        "from the hub, cached": from_hub,
    }
