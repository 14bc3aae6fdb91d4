"""Preparation of command line overrides for Hydra: path quoting, flags, sweep folders and job names."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import Path

from avatar_bench.errors import ConfigError
from avatar_bench.files.paths import make_folder_name

PATH_OPTIONS = (
    r"out|ckpt|against|input|output|runs|resume|init_from|data\.(root|manifest|blind|ood_root|name)|model\.weights"
    r"|source\.[^.=]+\.(root|file|list|manifest)"
)
PATH_MAPPING_OPTIONS = r"data\.ood|against|source\.[^.=]+\.roots"  # {name: PATH}
OPEN_MAPPING_OPTIONS = (  # {name: anything}
    *("model.options", "data.augment.others"),
    *("block.prior_shift.mixes", "block.out_of_domain.labels", "block.out_of_domain.options"),
)
# named by entries of users
OPTIONS_OF_ENTRIES = r"((optimizer|optimizer\.schedule|logger)\.options|callbacks\.others)(\..+)?"
PATH_LIST_OPTIONS = ("ckpt", "runs")  # also [PATH,PATH]
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
_OVERRIDE = re.compile(r"(?P<prefix>\+{0,2})(?P<key>[^\s=]+)=(?P<value>.*)", re.DOTALL)
_SWEEP_FUNCTION = re.compile(r"(choice|glob|range|interval|shuffle|sort|tag)\(.*\)$", re.DOTALL)
_PLAIN = re.compile(r"[A-Za-z_./][\w./-]*$", re.ASCII)
_NULL_VALUES = ("", "null")
_BARE_VALUE = re.compile(r"[-+]?[\d.]+(e[-+]?\d+)?|null|true|false", re.IGNORECASE)
_NAME_DIGITS = 5  # significant digits of a number in a folder name


def split_flags(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate Hydra's flags from the overrides; raise ConfigError for a word that is neither."""
    flags, overrides = [], []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith("-"):
            flags += [word, *_take_arguments(word, rest)]
        elif _OVERRIDE.match(word) or re.fullmatch(r"~[^\s=]+(=.*)?", word):
            overrides.append(word)
        else:
            raise ConfigError(f"'{word}': expected option=value, without spaces around the =")
    return flags, overrides


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


def quote_paths(overrides: Sequence[str], multirun: bool = False) -> list[str]:
    """Quote the values of path options, so that Hydra passes them on unchanged.

    A leading `~` is the home folder unless a file of that name exists. `null` stays null. In a multirun a value with
    commas is swept, unless it is an existing path; `out` is never swept.
    """
    return [_quote_override(word, multirun) for word in overrides]


def quote(value: str) -> str:
    """Quote a string so that neither Hydra's grammar nor OmegaConf's interpolation changes it."""
    literal = re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + "\\${", value)
    escaped = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), literal)
    return f"'{escaped}'"


def choose_sweep_folder(overrides: Sequence[str]) -> Path:
    """Return the folder of a sweep of train: `out`, else runs/ and the name of the sweep or its swept options."""
    given = dict(word.lstrip("+").partition("=")[::2] for word in overrides)
    if given.get("out", "") not in _NULL_VALUES:
        return Path(_expand_home(given["out"]))
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
    a valid folder name, four digits of its hash keep it distinct.
    """
    own = [word.partition("=")[::2] for word in overrides if not word.lstrip("+~").startswith(("hydra.", "hydra/"))]
    return make_folder_name("-".join(_name_value(key, value) for key, value in own if key.lstrip("+~") not in shared))


def _name_value(key: str, value: str) -> str:
    if _BARE_VALUE.fullmatch(value):
        short = f"{float(value):.{_NAME_DIGITS}g}" if len(value) > _NAME_DIGITS + 2 and "." in value else value
        return key.rpartition(".")[2] + short
    plain = re.sub(r"""^\[?['"]?|['"]?\]?$""", "", value)
    name = make_folder_name(plain)
    return name if name == plain else f"{name}-{hashlib.sha256(plain.encode()).hexdigest()[:4]}"


def _take_arguments(flag: str, rest: list[str]) -> list[str]:
    name, equals, text = flag.partition("=")
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


def _quote_override(word: str, multirun: bool) -> str:
    match = _OVERRIDE.match(word)
    if match is None:
        return word
    prefix, key, value = match["prefix"], match["key"], match["value"]
    if re.fullmatch(OPTIONS_OF_ENTRIES, key):
        return f"{prefix or '++'}{key}={value}"  # ++: Hydra's struct mode closes a dict to new names
    if value in _NULL_VALUES:
        return word
    maps_paths = re.fullmatch(PATH_MAPPING_OPTIONS, key)
    if (maps_paths or key in OPEN_MAPPING_OPTIONS) and value.startswith("{"):
        named = _quote_mapping(key, value) if maps_paths else value
        return f"{prefix or '++'}{key}={named}"
    if not re.fullmatch(PATH_OPTIONS, key):
        return word
    return f"{prefix}{key}={_quote_value(key, value, multirun)}"


def _quote_value(key: str, value: str, multirun: bool) -> str:
    if Path(value).exists():
        return _quote_path(value)
    if key in PATH_LIST_OPTIONS and value.startswith("[") and value.endswith("]"):
        return "[" + ",".join(map(_quote_path, _split_elements(value[1:-1]))) + "]"
    if multirun and key != "out":
        if _SWEEP_FUNCTION.match(value):
            return value
        elements = _split_elements(value)
        if len(elements) > 1:
            return ",".join(part if _PLAIN.match(part) else _quote_path(part) for part in elements)
    return quote(_expand_home(value))


def _quote_mapping(key: str, text: str) -> str:
    """Quote the values of `{a: PATH, b: PATH}`; a comma is part of the path unless a name and a colon follow."""
    inside = text.strip()[1:].removesuffix("}")
    before, *parts = re.split(r"""(?:^|,)\s*("[^"]*"|'[^']*'|[\w .-]+?)\s*:\s*""", inside)
    names = [name.strip("\"' ") for name in parts[::2]]
    for name in [before] * bool(before.strip()) + names:
        if not re.fullmatch(r"[\w.-]+", name) or name == before:
            raise ConfigError(
                f"{key}: cannot read a name and a path from {name.strip()!r}",
                f"expected names of letters, digits and . - _, each with its path: '{key}={{NAME: PATH}}'",
            )
    return (
        "{" + ", ".join(f"{name}: {_quote_path(value)}" for name, value in zip(names, parts[1::2], strict=True)) + "}"
    )


def _split_elements(text: str) -> list[str]:
    """Split at commas, except inside quotes and inside existing paths."""
    pieces = re.findall(r"""(\s*"[^"]*"\s*|\s*'[^']*'\s*|[^,]*)(?:,|$)""", text)[:-1] if text else []
    elements: list[str] = []
    while pieces:
        ends = [n for n in range(len(pieces), 1, -1) if Path(_expand_home(",".join(pieces[:n]))).exists()]
        end = ends[0] if ends else 1
        elements.append(",".join(pieces[:end]).strip())
        pieces = pieces[end:]
    return elements


def _quote_path(value: str) -> str:
    value = value.strip() if not Path(value).exists() else value
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" and not Path(value).exists():
        value = value[1:-1]
    return quote(_expand_home(value))


def _expand_home(value: str) -> str:
    if value == "???":
        return "./???"  # plain ??? means a missing value to OmegaConf
    at_home = value == "~" or value.startswith("~/")
    return os.path.expanduser(value) if at_home and not Path(value).exists() else value


def _find_sweep_choice(word: str) -> str | None:
    key, _, value = word.lstrip("+").partition("=")
    return value if key == "sweep" and value not in _NULL_VALUES else None


def _get_option(word: str) -> str:
    return word.lstrip("+~").partition("=")[0]


def _find_swept_options(overrides: Sequence[str]) -> list[str]:
    return [_get_option(word) for word in overrides if _is_swept(*word.partition("=")[::2])]


def _is_swept(key: str, value: str) -> bool:
    outside = re.sub(r"""'(\\.|[^'\\])*'|"(\\.|[^"\\])*"|\[[^]]*\]|\{[^}]*\}""", "", value)
    return key != "out" and ("," in outside or bool(_SWEEP_FUNCTION.match(value)))
