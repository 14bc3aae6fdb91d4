"""Paths on the command line: without the name of an option, and quoted so that Hydra passes them on unchanged."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from avatar_bench.config.catalogue import find_choices, find_groups
from avatar_bench.config.composition import find_default_choices
from avatar_bench.config.options import find_option, iterate_options
from avatar_bench.config.overrides import NULL_VALUES, OVERRIDE, SWEEP_FUNCTION, expand_home, quote
from avatar_bench.config.schema import SWITCH, find_schema
from avatar_bench.errors import ConfigError
from avatar_bench.files.paths import suggest_slashes
from avatar_bench.runs.record import is_run_address

# of sources, whose options their readers state
_SOURCE_PATH, _SOURCE_PATHS = r"source\.[^.=]+\.(root|file|list|manifest)", r"source\.[^.=]+\.roots"
_PLAIN = re.compile(r"[A-Za-z_./][\w./-]*$", re.ASCII)


def is_path_option(schema: type, key: str) -> bool:
    """Return whether the value of an option of a command's schema is a path, or a mapping of names to paths."""
    stated = find_option(schema, key)
    return (stated is not None and stated[1].is_path) or re.fullmatch(
        f"{_SOURCE_PATH}|{_SOURCE_PATHS}", key
    ) is not None


def find_main_option(command: str) -> str | None:
    """Return the name of the option whose paths may stand alone, None if the command has none."""
    return next((member.name for member, known in iterate_options(find_schema(command)) if known.is_main), None)


def name_bare_paths(command: str, words: Sequence[str]) -> list[str]:
    """Return the overrides of a command, its bare paths as the value of its main option.

    A word with = is a path if it exists and what stands before the = is no option. Raises ConfigError for a word that
    is neither an override nor a path, and if the main option is given twice.
    """
    main = find_main_option(command)
    bare = [word for word in words if _is_bare(command, word)]
    for word in bare:
        is_named = _exists(word) or word == "-" or word[:1] == "@" or set(word) & set("*?[") or is_run_address(word)
        if main is None or not is_named:
            expected = f"a path, as {main}={word}, or " if main else ""
            missing = "no such file or folder; " if main else ""
            reason = f"'{word}': {missing}expected {expected}option=value, without spaces around the ="
            groups = find_default_choices(command)
            owners = [f"{group}={word}" for group in groups if word in find_choices(group)]
            meant = f"Did you mean {' or '.join(owners)}?" if owners else suggest_slashes(word)
            own_data = {"source": "source=folder source.folder.root", "data": "data=folder data.root"}
            roots = [option for group, option in own_data.items() if group in groups]
            if main is None and roots and os.path.isdir(word):
                meant = f"For images of your own: {roots[0]}={word}"
            raise ConfigError(reason, *filter(None, [meant]))
    if not bare:
        return list(words)
    others = [word for word in words if word not in bare]
    if any(word.startswith(f"{main}=") for word in others):
        raise ConfigError(f"{main}= is given twice: '{bare[0]}' is its value, too.", f"Remove {main}= or '{bare[0]}'.")
    value = bare[0] if len(bare) == 1 else f"[{','.join(bare)}]"
    return [f"{main}={value}", *others]


def make_words(command: str, options: Mapping[str, Any]) -> list[str]:
    """Return options as the words of a command line: Python's values, and names with __ or . between the levels."""
    schema, named = find_schema(command), {key.replace("__", "."): value for key, value in options.items()}
    return [f"{name}={_format_value(value, is_path_option(schema, name))}" for name, value in named.items()]


def _format_value(value: Any, is_path: bool) -> str:
    """Return a value in the grammar of Hydra's overrides; paths stay as they are, as `quote_paths` expects them."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | os.PathLike):
        value = os.fspath(value)
        is_word = _PLAIN.fullmatch(value) and value.lower() not in ("null", "true", "false", "nan", "inf")
        return value if is_path or is_word else quote(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_format_value(element, is_path)}" for name, element in value.items()) + "}"
    if isinstance(value, Iterable):
        return f"[{','.join(_format_value(element, is_path) for element in value)}]"
    return str(value)


def _is_bare(command: str, word: str) -> bool:
    match = OVERRIDE.match(word)
    if match is None:
        return re.fullmatch(r"~[^\s=]+(=.*)?", word) is None or _exists(word)
    key = match["key"]
    return _exists(word) and find_option(find_schema(command), key) is None and key not in find_groups()


def _exists(word: str) -> bool:
    return os.path.exists(expand_home(word))  # False where a word is longer than a name may be


def quote_paths(command: str, overrides: Sequence[str], multirun: bool = False) -> list[str]:
    """Quote the values of a command's path options, so that Hydra passes them on unchanged.

    A leading `~` is the home folder unless a file of that name exists. `null` stays null. In a multirun a value with
    commas is swept, unless it is an existing path; `out` is never swept.
    """
    schema = find_schema(command)
    return [_quote_override(schema, word, multirun) for word in overrides]


def _quote_override(schema: type, word: str, multirun: bool) -> str:
    match = OVERRIDE.match(word)
    if match is None:
        return word
    prefix, key, value = match["prefix"], match["key"], match["value"]
    stated, switch = (find_option(schema, name) for name in (key, f"{key}.{SWITCH}"))
    is_path, is_mapping = is_path_option(schema, key), value.startswith("{")
    if not is_mapping and switch and switch[0].name == SWITCH:
        return f"{prefix}{key}.{SWITCH}={value}"  # such as evidence=true
    opened = (stated and stated[1].is_open) or re.fullmatch(_SOURCE_PATHS, key)
    is_choice = not is_mapping and key in find_groups()  # such as schedule=cosine
    if (opened and not is_path and not is_choice) or (is_mapping and key.startswith("block.")):
        return f"{prefix or '++'}{key}={value}"  # ++: Hydra's struct mode closes a dict to new names
    if value in NULL_VALUES or not is_path:
        return word
    if opened and is_mapping:
        return f"{prefix or '++'}{key}={_quote_mapping(key, value)}"
    if value.startswith("[") and value.endswith("]") and stated and stated[0].type == "Any" and not _exists(value):
        return f"{prefix}{key}=[{','.join(map(_quote_path, _split_elements(value[1:-1])))}]"
    return f"{prefix}{key}={_quote_value(value, multirun and key != 'out')}"


def _quote_value(value: str, is_swept: bool) -> str:
    if Path(value).exists():
        return _quote_path(value)
    if is_swept:
        if SWEEP_FUNCTION.match(value):
            return value
        elements = _split_elements(value)
        if len(elements) > 1:
            return ",".join(part if _PLAIN.match(part) else _quote_path(part) for part in elements)
    return quote(expand_home(value))


def _quote_mapping(key: str, text: str) -> str:
    """Quote the values of `{a: PATH, b: PATH}`; a comma is part of the path unless a name and a colon follow."""
    inside = text.strip()[1:].removesuffix("}")
    before, *parts = re.split(r"""(?:^|,)\s*("[^"]*"|'[^']*'|[\w .-]+?)\s*:\s*""", inside)
    names = [name.strip("\"' ") for name in parts[::2]]
    if wrong := [*filter(None, [before.strip()]), *(name for name in names if not re.fullmatch(r"[\w.-]+", name))]:
        raise ConfigError(
            f"{key}: cannot read a name and a path from {wrong[0]!r}",
            f"expected names of letters, digits and . - _, each with its path: '{key}={{NAME: PATH}}'",
        )
    pairs = zip(names, map(_quote_path, parts[1::2]), strict=True)
    return f"{{{', '.join(f'{name}: {path}' for name, path in pairs)}}}"


def _split_elements(text: str) -> list[str]:
    """Split at commas, except inside quotes and inside existing paths."""
    pieces = re.findall(r"""(\s*"[^"]*"\s*|\s*'[^']*'\s*|[^,]*)(?:,|$)""", text)[:-1] if text else []
    elements: list[str] = []
    while pieces:
        end = next((n for n in range(len(pieces), 1, -1) if _exists(",".join(pieces[:n]))), 1)
        elements.append(",".join(pieces[:end]).strip())
        pieces = pieces[end:]
    return elements


def _quote_path(value: str) -> str:
    value = value.strip() if not Path(value).exists() else value
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" and not Path(value).exists():
        value = value[1:-1]
    return quote(expand_home(value))
