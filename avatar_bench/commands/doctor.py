"""doctor: show what is installed and available on this machine, and what is wrong with it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

import avatar_bench
from avatar_bench.config.catalogue import find_choices
from avatar_bench.config.schema import DoctorConfig
from avatar_bench.console.machine import count_cores, measure_memory
from avatar_bench.console.terminal import escape_control_characters, format_count, print_line
from avatar_bench.errors import AvatarBenchError, ConfigError, OutputError
from avatar_bench.files.package_files import find_archive_folder
from avatar_bench.files.paths import cache_root
from avatar_bench.files.yaml_io import read_yaml

_OURS = "avatar-bench"
_FREE_GB, _MEMORY_GB, _SHARED_GB = 2, 2, 0.5  # with less, a small training is likely to fail
_SHARED_MEMORY = Path("/dev/shm")
_CONTRIBUTORS = ("dev", "docs")  # extras that no user misses
_SHOWN = ("torch", "torchvision", "timm")  # packages whose versions matter most
_VARIABLES = ("AVATAR_BENCH_CACHE", "CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "OMP_NUM_THREADS")


@dataclass(frozen=True)
class _PackageState:
    """Required package: its accepted versions, the installed one (None: missing), and the extra ("": every user's)."""

    name: str
    expected: str
    installed: str | None
    extra: str
    is_accepted: bool


def execute(settings: DoctorConfig) -> None:
    """Print the state of the installation and the machine, as text or JSON.

    Raise ConfigError if packages, devices or the hub cannot be used, else OutputError if disk, cache or memory cannot.
    """
    problems: list[AvatarBenchError] = []
    packages = _check_requirements()
    facts: dict[str, Any] = {
        "versions": _describe_versions(packages, problems),
        "extras": _describe_extras(packages),
        "devices": _describe_devices(problems),
        "memory": _describe_memory(problems),
        "environment": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        **{name: _describe_folder(name, place, problems) for name, place in _list_folders().items()},
        "weights": _describe_weights(settings.hub, problems),
    }
    if settings.format == "json":
        print(json.dumps(facts | {"problems": [list(one.lines) for one in problems]}, indent=1, ensure_ascii=False))
    else:
        for name, values in facts.items():
            shown = {key: ", ".join(each) or "none" if isinstance(each, list) else each for key, each in values.items()}
            print_line(f"{name:13} " + ("; ".join(f"{key}: {each}" for key, each in shown.items()) or "none"))
        for one in problems:
            print("", *map(escape_control_characters, one.lines), sep="\n")
        if not problems:
            print("\nno problem found")
    sys.stdout.flush()  # before the error on standard error
    if problems:
        kind = next((type(one) for one in problems if isinstance(one, ConfigError)), OutputError)
        raise kind(f"{format_count(len(problems), 'problem')}, described above.")


def _check_requirements() -> list[_PackageState]:
    """Return the state of every required package on this Python; an empty list if this package is not installed."""
    try:
        known = metadata.metadata(_OURS)
    except metadata.PackageNotFoundError:  # only its folder is on the path
        return []
    required = [Requirement(line) for line in known.get_all("Requires-Dist") or []]
    extras = ["", *(known.get_all("Provides-Extra") or [])]
    return [state for extra in extras for state in _check_extra(required, extra)]


def _check_extra(required: list[Requirement], extra: str) -> Iterator[_PackageState]:
    for each in required:
        is_of_all = each.marker is None or each.marker.evaluate({"extra": ""})
        is_of_extra = each.marker is not None and each.marker.evaluate({"extra": extra})
        if each.name == _OURS or not (is_of_extra and not is_of_all if extra else is_of_all):
            continue
        try:
            installed = metadata.version(each.name)
        except metadata.PackageNotFoundError:
            installed = None
        accepted = installed is not None and each.specifier.contains(installed, prereleases=True)
        yield _PackageState(each.name, str(each.specifier), installed, extra, accepted)


def _describe_versions(packages: list[_PackageState], problems: list[AvatarBenchError]) -> dict[str, str]:
    """Return the versions that matter most; add a problem for each package that is missing or of another version."""
    if not packages:
        reason = "avatar-bench is not installed: this Python only finds its folder."
        problems.append(ConfigError(reason, "In the clone: pip install ."))
    for each in {each.name: each for each in reversed(packages) if each.extra not in _CONTRIBUTORS}.values():
        if not each.is_accepted and (each.installed or not each.extra):
            state = f"{each.installed} is installed" if each.installed else "it is missing"
            reason = f"{each.name}: {state}, and {each.expected or 'any version'} is required."
            problems.append(ConfigError(reason, f"pip install '{each.name}{each.expected}'"))
    known = {each.name: each.installed or "missing" for each in packages}
    own = {"avatar-bench": avatar_bench.__version__, "python": platform.python_version()}
    return own | {"system": platform.platform(terse=True)} | {name: known[name] for name in _SHOWN if name in known}


def _describe_extras(packages: list[_PackageState]) -> dict[str, list[str]]:
    """Return which extras are installed, and what the others lack."""
    lacking: dict[str, list[str]] = {each.extra: [] for each in packages if each.extra not in ("", *_CONTRIBUTORS)}
    for each in packages:
        if each.extra in lacking and each.installed is None:
            lacking[each.extra].append(each.name)
    return {
        "installed": [name for name, lacks in lacking.items() if not lacks],
        "not installed": [f"{name} ({' '.join(lacks)})" for name, lacks in lacking.items() if lacks],
    }


def _describe_devices(problems: list[AvatarBenchError]) -> dict[str, Any]:
    """Return the cores, threads and GPUs; add a problem if torch cannot be imported, or cannot use a GPU."""
    cores = {"cores": count_cores(), "cores of the machine": os.cpu_count()}
    try:
        import torch
    except Exception as error:  # a missing library of the system, of several types
        reason = f"torch cannot be imported: {' '.join(str(error).split())[:200]}"
        problems.append(ConfigError(reason, "pip install --force-reinstall torch torchvision"))
        return cores
    gpus = ["mps"] if torch.backends.mps.is_available() else []
    if torch.cuda.is_available():
        cards = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        gpus = [f"{card.name} ({card.total_memory / 1e9:.0f} GB)" for card in cards]
    elif shutil.which("nvidia-smi") and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU alone"
        reason = f"There is a GPU driver (nvidia-smi), and torch {torch.__version__}, built for {built}, cannot use it."
        problems.append(ConfigError(reason, "Install a build of torch that fits the driver, see docs/install.md."))
    return cores | {"torch threads": torch.get_num_threads(), "GPUs": gpus}


def _describe_memory(problems: list[AvatarBenchError]) -> dict[str, float]:
    usable, free = (round(size / 1e9, 1) for size in measure_memory())
    if usable < _MEMORY_GB:
        advice = "Allow more, or use data.workers=0 and a small data.batch_size."
        problems.append(OutputError(f"Only {usable} GB of memory may be used.", advice))
    return {"usable GB": usable, "free GB": free}


def _list_folders() -> dict[str, Path]:
    """Return the folders that commands write to."""
    from huggingface_hub.constants import HF_HUB_CACHE

    found = {"cache": cache_root(), "hub cache": Path(HF_HUB_CACHE), "this folder": Path.cwd()}
    return found | ({"shared memory": _SHARED_MEMORY} if _SHARED_MEMORY.is_dir() else {})


def _describe_folder(name: str, place: Path, problems: list[AvatarBenchError]) -> dict[str, Any]:
    """Return a folder's path, size if it is a cache, and free space; add a problem if it is full or closed."""
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    free = round(shutil.disk_usage(there).free / 1e9, 1)
    if not (there.is_dir() and os.access(there, os.W_OK)):
        advice = {
            "cache": "Choose another folder: AVATAR_BENCH_CACHE=DIR",
            "hub cache": "Choose another folder: HF_HOME=DIR",
            "shared memory": "Processes that load images need it: make it a tmpfs of mode 1777.",
        }
        problems.append(OutputError(f"{place} cannot be written.", advice.get(name, "Work in another folder.")))
    elif place == _SHARED_MEMORY and free < _SHARED_GB:
        reason = f"{place}, the shared memory, has only {free} GB free."
        needs = "Loading images in processes needs it: use data.workers=0, or docker run --shm-size=2g."
        problems.append(OutputError(reason, needs))
    elif place != _SHARED_MEMORY and free < _FREE_GB:
        problems.append(OutputError(f"{place}: only {free} GB are free.", "Free some space, or use another disk."))
    size = {"size GB": round(_measure_size(place) / 1e9, 1)} if "cache" in name else {}
    return {"path": str(place), **size, "free GB": free}


def _measure_size(folder: Path) -> int:
    """Return the bytes of the files below a folder; a link counts as nothing."""
    size = 0
    for file in folder.rglob("*"):
        with suppress(OSError):  # deleted meanwhile
            size += file.lstat().st_size * (file.is_file() and not file.is_symlink())
    return size


def _describe_weights(ask_hub: bool, problems: list[AvatarBenchError]) -> dict[str, Any]:
    """Return which pretrained weights can be had: from packages, and from the hub, which is asked only on request.

    Add a problem if it is asked and does not answer.
    """
    import huggingface_hub
    from huggingface_hub.constants import ENDPOINT

    recipes = {name: read_yaml(file).get("model", {}).get("package") for name, file in find_choices("model").items()}
    packages = {name: package for name, package in recipes.items() if package}
    folders = {name: find_archive_folder(one["distribution"], one["version"]) for name, one in packages.items()}
    cached: list[str] = []
    with suppress(huggingface_hub.CacheNotFound):
        cached = sorted(repo.repo_id for repo in huggingface_hub.scan_cache_dir().repos if repo.repo_type == "model")
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
        "from pip, cached": [name for name, folder in folders.items() if folder.is_dir()],
        "from pip, when first used": [name for name, folder in folders.items() if not folder.is_dir()],
        "hub": hub,
        "from the hub, cached": cached,
    }
