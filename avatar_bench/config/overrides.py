"""Preparation of command line overrides for Hydra: flags, sweep folders and job names."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from avatar_bench.config.validation import escape_interpolations
from avatar_bench.errors import ConfigError
from avatar_bench.files.hashes import sha256_of_text
from avatar_bench.files.paths import make_folder_name

HYDRA_FLAGS: dict[str, tuple[str, ...] | None] = {  # the Hydra flags we support, with their values
    "-m": None,
    "--multirun": None,
    "--resolve": None,
    "-c": ("job", "hydra", "all"),
    "--cfg": ("job", "hydra", "all"),
    "-p": (),
    "--package": (),
    "-cd": (),
    "--config-dir": (),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
}
OVERRIDE = re.compile(r"(?P<prefix>\+{0,2})(?P<key>[^\s=]+)=(?P<value>.*)", re.DOTALL)
SWEEP_FUNCTION = re.compile(r"(choice|glob|range|interval|shuffle|sort|tag)\(.*\)$", re.DOTALL)
NULL_VALUES = ("", "null")
_BARE_VALUE = re.compile(r"[-+]?[\d.]+(e[-+]?\d+)?|null|true|false", re.IGNORECASE)
_NAME_DIGITS = 5  # significant digits of a number in a folder name
_NAME_CHARACTERS = 64  # of a value in a folder name, which holds several


def split_flags(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate Hydra's flags, with their arguments, from the other words: overrides, and paths without an option."""
    flags, others = [], []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word == "-":
            others.append(word)
            continue
        name, equals, value = word.partition("=")
        if name not in HYDRA_FLAGS and Path(word).exists():
            raise ConfigError(f"{word}: no such flag", f"write the file of that name as ./{word}")
        if name not in HYDRA_FLAGS:
            raise ConfigError(
                f"{word}: no such flag; write options as option=value, without dashes",
                f"flags: {' '.join(HYDRA_FLAGS)} --help",
            )
        flags.append(word)
        if (allowed := HYDRA_FLAGS[name]) is not None:
            if not equals and rest:
                flags.append(value := rest.pop(0))
            if not value or (allowed and value not in allowed):
                raise ConfigError(f"{name} requires a value" + (f", one of: {' '.join(allowed)}" if allowed else ""))
    return flags, others


def find_config_folders(words: Sequence[str]) -> list[str]:
    """Return the folders given by -cd and by hydra.searchpath, from all words of a command line.

    Raise ConfigError if one of -cd is missing.
    """
    flagged = [word for flag, word in pairwise(words) if flag in ("-cd", "--config-dir")]
    if missing := [word for word in flagged if not Path(word).expanduser().is_dir()]:
        raise ConfigError(f"-cd {missing[0]}: there is no such folder", "expected a folder of yaml and entries")
    listed = _split(words).get("hydra.searchpath", "").strip("[]").split(",")
    return [*flagged, *filter(None, (part.strip(" '\"").removeprefix("file://") for part in listed))]


def is_multirun(flags: Sequence[str], overrides: Sequence[str]) -> bool:
    """Return whether several jobs are requested: by a flag, by sweep= or by hydra.mode."""
    values = _split(overrides)
    is_asked = values.get("sweep", "") not in NULL_VALUES or values.get("hydra.mode") == "MULTIRUN"
    return is_asked or not {"-m", "--multirun"}.isdisjoint(flags)


def quote(value: str) -> str:
    """Quote a string so that neither Hydra's grammar nor OmegaConf's interpolation changes it."""
    text = escape_interpolations(value)
    escaped = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), text)
    return f"'{escaped}'"


def expand_home(value: str) -> str:
    """Return a path with its leading ~ expanded, unless a file of that name exists."""
    if value == "???":
        return "./???"  # plain ??? means a missing value to OmegaConf
    at_home = value == "~" or value.startswith("~/")
    return os.path.expanduser(value) if at_home and not Path(value).exists() else value


def choose_sweep_folder(overrides: Sequence[str]) -> Path:
    """Return the folder of a sweep of train: `out`, else runs/ and the name of the sweep or its swept options."""
    values = _split(overrides)
    out, name = values.get("out", ""), values.get("sweep", "")
    if out not in NULL_VALUES:
        return Path(expand_home(out))
    if name in NULL_VALUES:
        name = "-".join(_find_swept_options(values))
    if not name and not any(key.startswith("hydra") for key in values):
        raise ConfigError("-m: no option has more than one value", "for example: avatar-bench train -m seed=1,2,3")
    return Path("runs") / re.sub(r"[^\w.-]+", "-", name or "sweep")


def make_sweep_overrides(overrides: Sequence[str], folder: Path) -> list[str]:
    """Return Hydra's overrides for the folder of a sweep and for naming its jobs by the options that differ."""
    values = _split(overrides)
    differing = [*_find_swept_options(values), *(key for key in values if key.startswith(("hydra.", "hydra/")))]
    names = ",".join(key for key in values if key not in differing)
    return [f"hydra.sweep.dir={quote(str(folder))}", f"hydra.job.config.override_dirname.exclude_keys=[{names}]"]


def name_job(overrides: Sequence[str], shared: Collection[str] = ()) -> str:
    """Return the name of a sweep job and its folder: the options that are not shared by all jobs.

    An option is shown by its value; a number, null, true or false follows the last part of its key. If a value is not
    a valid folder name, or is too long, four digits of its hash keep it distinct.
    """
    pairs = [word.partition("=")[::2] for word in overrides if not word.lstrip("+~").startswith(("hydra.", "hydra/"))]
    return make_folder_name("-".join(_name_value(key, value) for key, value in pairs if key.lstrip("+~") not in shared))


def _name_value(key: str, value: str) -> str:
    if _BARE_VALUE.fullmatch(value):
        short = f"{float(value):.{_NAME_DIGITS}g}" if len(value) > _NAME_DIGITS + 2 and "." in value else value
        return key.rpartition(".")[2] + short
    plain = re.sub(r"""^\[?['"]?|['"]?\]?$""", "", value)
    name = make_folder_name(plain)
    return name if name[:_NAME_CHARACTERS] == plain else f"{name[:_NAME_CHARACTERS]}-{sha256_of_text(plain)[:4]}"


def _split(overrides: Sequence[str]) -> dict[str, str]:
    """Return the value of each option, as it is written."""
    return dict(word.lstrip("+~").partition("=")[::2] for word in overrides)


def _find_swept_options(values: Mapping[str, str]) -> list[str]:
    """Return the options with several values: with a comma outside of quotes and brackets, or a function of Hydra."""
    inside = r"""'(\\.|[^'\\])*'|"(\\.|[^"\\])*"|\[[^]]*\]|\{[^}]*\}"""
    outside = {key: re.sub(inside, "", value) for key, value in values.items() if key != "out"}
    return [key for key, value in outside.items() if "," in value or SWEEP_FUNCTION.match(value)]
