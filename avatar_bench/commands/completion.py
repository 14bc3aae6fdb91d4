"""completion: print a script that completes commands, options, choices and paths in bash, zsh or fish."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from avatar_bench.config import catalogue
from avatar_bench.config.overrides import HYDRA_FLAGS
from avatar_bench.errors import ConfigError

SHELLS = ("bash", "zsh", "fish")  # completion.SHELL, beside this file, is the script of each
_EXAMPLE = 'eval "$(avatar-bench completion bash)"'


def execute(words: Sequence[str]) -> None:
    """Print the completion script of a shell; raise ConfigError unless it is bash, zsh or fish.

    The scripts call `query SHELL WORDS`, which prints the candidates for the last word, one per line.
    """
    shell, *rest = words or [""]
    if not shell:
        print("avatar-bench completion bash|zsh|fish\nfor example, in ~/.bashrc: " + _EXAMPLE)
    elif shell == "query" and rest:
        names = complete(rest[1:] or [""], files=rest[0] == "fish")
        print(*names, sep="\n", end="\n" * bool(names))  # an empty line would be a candidate
    elif shell in SHELLS:
        print(Path(__file__).with_suffix(f".{shell}").read_text(encoding="utf-8").strip())
    else:
        raise ConfigError(f"completion {shell}: expected bash, zsh or fish", f"for example: {_EXAMPLE}")


def complete(words: Sequence[str], files: bool = False) -> list[str]:
    """Return the sorted candidates for the last word; paths only with `files`, if the shell adds none itself."""
    *before, word = words
    if not before:
        return _filter_by_prefix(word, [*catalogue.find_commands(), "--help", "--version"])
    kinds = {"list": [*catalogue.LISTED_GROUPS, "runs"], "completion": SHELLS}
    if before[0] in kinds:
        return _filter_by_prefix(word, kinds[before[0]] if len(before) == 1 else [])
    if word.startswith("-"):
        return _filter_by_prefix(word, [*HYDRA_FLAGS, "--help"])
    option, equals, value = word.partition("=")
    if equals and option in catalogue.find_groups():
        start = value.rpartition(",")[0] + "," if "," in value else "[" * value.startswith("[")
        return _filter_by_prefix(word, [f"{option}={start}{name}" for name in catalogue.describe_choices(option)])
    return _complete_option(before[0], before[1:], word, files) if before[0] in catalogue.find_commands() else []


def _filter_by_prefix(word: str, names: Sequence[str]) -> list[str]:
    return sorted({name for name in names if name.startswith(word)})


def _complete_option(command: str, before: Sequence[str], word: str, files: bool) -> list[str]:
    """Return the values of an option, or the options that Hydra knows after the choices made before."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.plugins.completion_plugin import DefaultCompletionPlugin

    from avatar_bench.config.composition import find_default_choices, register
    from avatar_bench.config.options import find_option
    from avatar_bench.config.path_quoting import is_path_option
    from avatar_bench.config.schema import find_schema

    option, equals, value = word.partition("=")
    schema = find_schema(command)
    if equals and is_path_option(schema, option.lstrip("+")):
        return _complete_path(option, value) if files else []
    stated = find_option(schema, option.lstrip("+"))
    if equals and stated is not None and (known := stated[1].list_choices()):
        return _filter_by_prefix(word, [f"{option}={choice}" for choice in known])
    register(command, before)
    with initialize_config_dir(str(catalogue.find_conf_folder()), version_base="1.3"):
        plugin = DefaultCompletionPlugin(GlobalHydra.instance().config_loader())
        names = plugin._query(command, " ".join([*(part for part in before if "=" in part and " " not in part), word]))
    hidden = rf"({'|'.join(['hydra', 'schema', *catalogue.find_unused_groups(command)])})\b"
    owned = {member.name for member in fields(schema)} | find_default_choices(command).keys()
    return sorted(name for name in names if re.split("[=.@]", name)[0] in owned and not re.match(hidden, name))


def _complete_path(option: str, value: str) -> list[str]:
    folder, name = os.path.split(value)
    try:
        entries = sorted(Path(folder or ".").expanduser().iterdir())
    except OSError:
        return []
    names = [entry.name + "/" * entry.is_dir() for entry in entries if entry.name.startswith(name)]
    return [f"{option}={os.path.join(folder, entry)}" for entry in names]
