"""Help text of one command: groups, options and defaults from the schema and the yaml."""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from avatar_bench.config import overrides
from avatar_bench.config import schema as config
from avatar_bench.config.catalogue import describe_choices, find_conf_folder, read_summary
from avatar_bench.config.config_loader import COMMANDS_WITHOUT_MODE
from avatar_bench.config.entries import find_entries, find_entry
from avatar_bench.config.options import iterate_options

_LINES = re.MULTILINE | re.DOTALL
# set by the choice of the group, not by the user
_SET_BY_GROUP = ("data.kind", "mode.name", "method.name", "optimizer.name", "logger.name")


def format_help(command: str, words: Sequence[str] = ()) -> str:
    """Return the help of a command: its groups with their choices and its options, one per line.

    `words` are the other command line words, such as block=NAME, which determine the options and values shown.
    """
    flags, given = overrides.split_flags(words)
    folders = [flags[place + 1] for place, flag in enumerate(flags) if flag in ("-cd", "--config-dir")]
    if folders:
        given = [*given, f"hydra.searchpath=[{','.join(overrides.quote(os.path.abspath(one)) for one in folders)}]"]
    with initialize_config_dir(str(find_conf_folder()), version_base="1.3"):
        cfg = compose(command, overrides.quote_paths(given), return_hydra_config=True)
    chosen = cfg.hydra.runtime.choices
    lines = [f"avatar-bench {command} [option=value ...]", read_summary(find_conf_folder() / f"{command}.yaml"), ""]
    groups = _read_groups(command)
    for group, default in groups.items():
        if group == "mode" and command in COMMANDS_WITHOUT_MODE:
            continue
        names = [name for name in describe_choices(group) if name != "run" or command == "evaluate"]
        lines.append(_format_row(f"{group}={_format_value(chosen.get(group, default))}", f"one of: {' '.join(names)}"))
    lines += [*[""] * (len(lines) > 3), *_format_options(cfg, config.SCHEMAS[command], left_out=groups), ""]
    if "block" in groups:
        for name, options in cfg.block.items():
            lines += [*_format_block(str(name), options or {}), ""]
    if command == "evaluate":
        lines.append("evaluate --help block=NAME lists the options of another block")
    lines.append("-m runs one job for each of several values (a=1,2)")
    return "\n".join([*lines, "--cfg job shows the whole configuration; -cd DIR adds a folder of yaml"])


def _read_groups(command: str) -> dict[str, Any]:
    """Return the groups of a primary config's defaults list with their default choices."""
    defaults = OmegaConf.load(find_conf_folder() / f"{command}.yaml").defaults
    pairs = [pair for entry in defaults if isinstance(entry, DictConfig) for pair in entry.items()]
    return {str(group): choice for group, choice in pairs if str(group).isidentifier()}


def _format_options(cfg: DictConfig, schema: Any, prefix: str = "", left_out: Collection[str] = ()) -> Iterator[str]:
    """Yield a row for each option, top-level options before nested ones."""
    below: list[str] = []
    for name in schema.__dataclass_fields__:
        value: Any = None if OmegaConf.is_missing(cfg, name) else cfg[name]
        kind = OmegaConf.get_type(value) if isinstance(value, DictConfig) else None
        if is_dataclass(kind):
            below += _format_options(value, kind, f"{prefix}{name}.", _SET_BY_GROUP)
        elif not (isinstance(value, DictConfig) and value) and f"{prefix}{name}" not in left_out:
            yield _format_row(
                f"{prefix}{name}={_format_default(cfg, name)}", _describe_option(prefix + name, schema, name)
            )
    yield from below


def _format_block(name: str, options: Mapping[Any, Any]) -> Iterator[str]:
    """Yield the summary of a block, and a row for each of its options."""
    yield f"block {name}: {describe_choices('block')[name]}"
    for each, known in iterate_options(find_entry("block", name).load_class()):
        note = known.help + (f": {' '.join(map(str, known.list_choices()))}" if known.choices else "")
        yield _format_row(f"block.{name}.{each.name}={_format_value(options[each.name])}", note)


def _describe_option(option: str, schema: Any, name: str) -> str:
    kind = config.ENTRY_OPTIONS.get(option)
    allowed = find_entries(kind) if kind else config.OPTION_CHOICES.get(option)
    return _read_comments(schema).get(name) or ("one of: " + " ".join(allowed) if allowed else "")


def _format_default(cfg: DictConfig, name: str) -> str:
    return "..." if OmegaConf.is_missing(cfg, name) else _format_value(cfg[name])


def _format_row(option: str, note: str) -> str:
    return f"  {option:34}  {note}".rstrip()


@cache
def _read_comments(schema: Any) -> dict[str, str]:
    """Return the comment of each option of a schema, cut from its module: inspect would parse it for each class."""
    found: dict[str, str] = {}
    for one in reversed(schema.__mro__):
        if "__dataclass_fields__" in vars(one):
            body = re.search(rf"^class {one.__name__}\b.*?(?=^\S|\Z)", _read_source(one.__module__), _LINES)
            found |= dict(re.findall(r"^    (\w+): .*?  # (.+)$", body[0] if body else "", re.MULTILINE))
    return found


@cache
def _read_source(module: str) -> str:
    return inspect.getsource(sys.modules[module])


def _format_value(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value).replace("'", "")  # as Hydra reads it
