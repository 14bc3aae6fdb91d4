"""Preparation of command line overrides for Hydra: flags, sweep folders and job names."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import Path

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
        if word.startswith("-") and word != "-":
            flags += [word, *_take_arguments(word, rest)]
        else:
            others.append(word)
    return flags, others


def find_config_folders(words: Sequence[str]) -> list[str]:
    """Return the folders given by -cd and by hydra.searchpath, from all words of a command line."""
    flagged = [word for flag, word in pairwise(words) if flag in ("-cd", "--config-dir")]
    searched = [
        word.partition("=")[2].strip("[]") for word in words if word.lstrip("+").startswith("hydra.searchpath=")
    ]
    listed = [part.strip(" '\"").removeprefix("file://") for each in searched for part in each.split(",")]
    return [*flagged, *filter(None, listed)]


def is_multirun(flags: Sequence[str], overrides: Sequence[str]) -> bool:
    """Return whether several jobs are requested: by a flag, by sweep= or by hydra.mode."""
    swept = any(_find_sweep_choice(word) or word == "hydra.mode=MULTIRUN" for word in overrides)
    return swept or "-m" in flags or "--multirun" in flags


def quote(value: str) -> str:
    """Quote a string so that neither Hydra's grammar nor OmegaConf's interpolation changes it."""
    literal = re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + "\\${", value)
    escaped = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), literal)
    return f"'{escaped}'"


def expand_home(value: str) -> str:
    """Return a path with its leading ~ expanded, unless a file of that name exists."""
    if value == "???":
        return "./???"  # plain ??? means a missing value to OmegaConf
    at_home = value == "~" or value.startswith("~/")
    return os.path.expanduser(value) if at_home and not Path(value).exists() else value


def choose_sweep_folder(overrides: Sequence[str]) -> Path:
    """Return the folder of a sweep of train: `out`, else runs/ and the name of the sweep or its swept options."""
    given = dict(word.lstrip("+").partition("=")[::2] for word in overrides)
    if given.get("out", "") not in NULL_VALUES:
        return Path(expand_home(given["out"]))
    name = next(filter(None, map(_find_sweep_choice, overrides)), None)
    if (
        not name
        and not _find_swept_options(overrides)
        and not any(word.startswith(("hydra", "+hydra")) for word in overrides)
    ):
        raise ConfigError("-m: no option has more than one value", "for example: avatar-bench train -m seed=1,2,3")
    return Path("runs") / re.sub(r"[^\w.-]+", "-", name or "-".join(_find_swept_options(overrides)) or "sweep")


def make_sweep_overrides(overrides: Sequence[str], folder: Path) -> list[str]:
    """Return Hydra's overrides for the folder of a sweep and for naming its jobs by the options that differ."""
    swept = _find_swept_options(overrides)
    fixed = [
        key for key in map(_get_option, overrides) if key not in swept and not key.startswith(("hydra.", "hydra/"))
    ]
    names = ",".join(dict.fromkeys(fixed))
    return [f"hydra.sweep.dir={quote(str(folder))}", f"hydra.job.config.override_dirname.exclude_keys=[{names}]"]


def name_job(overrides: Sequence[str], shared: Collection[str] = ()) -> str:
    """Return the name of a sweep job and its folder: the options that are not shared by all jobs.

    An option is shown by its value; a number, null, true or false follows the last part of its key. If a value is not
    a valid folder name, or is too long, four digits of its hash keep it distinct.
    """
    own = [word.partition("=")[::2] for word in overrides if not word.lstrip("+~").startswith(("hydra.", "hydra/"))]
    return make_folder_name("-".join(_name_value(key, value) for key, value in own if key.lstrip("+~") not in shared))


def _name_value(key: str, value: str) -> str:
    if _BARE_VALUE.fullmatch(value):
        short = f"{float(value):.{_NAME_DIGITS}g}" if len(value) > _NAME_DIGITS + 2 and "." in value else value
        return key.rpartition(".")[2] + short
    plain = re.sub(r"""^\[?['"]?|['"]?\]?$""", "", value)
    name = make_folder_name(plain)
    return name if name[:_NAME_CHARACTERS] == plain else f"{name[:_NAME_CHARACTERS]}-{sha256_of_text(plain)[:4]}"


def _take_arguments(flag: str, rest: list[str]) -> list[str]:
    name, equals, text = flag.partition("=")
    if name not in HYDRA_FLAGS and Path(flag).exists():
        raise ConfigError(f"{flag}: no such flag", f"write the file of that name as ./{flag}")
    if name not in HYDRA_FLAGS:
        raise ConfigError(
            f"{flag}: no such flag; write options as option=value, without dashes",
            f"flags: {' '.join(HYDRA_FLAGS)} --help",
        )
    allowed = HYDRA_FLAGS[name]
    if allowed is None:
        return []
    value = text if equals else (rest[0] if rest else "")
    if not value or (allowed and value not in allowed):
        raise ConfigError(f"{name} requires a value" + (f", one of: {' '.join(allowed)}" if allowed else ""))
    return [] if equals else [rest.pop(0)]


def _find_sweep_choice(word: str) -> str | None:
    key, _, value = word.lstrip("+").partition("=")
    return value if key == "sweep" and value not in NULL_VALUES else None


def _get_option(word: str) -> str:
    return word.lstrip("+~").partition("=")[0]


def _find_swept_options(overrides: Sequence[str]) -> list[str]:
    return [_get_option(word) for word in overrides if _is_swept(*word.partition("=")[::2])]


def _is_swept(key: str, value: str) -> bool:
    outside = re.sub(r"""'(\\.|[^'\\])*'|"(\\.|[^"\\])*"|\[[^]]*\]|\{[^}]*\}""", "", value)
    return key != "out" and ("," in outside or bool(SWEEP_FUNCTION.match(value)))
