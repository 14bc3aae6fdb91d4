"""Help text of one command: groups, options and defaults from the schema and the yaml."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import is_dataclass
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from avatar_bench.config import overrides
from avatar_bench.config import schema as config
from avatar_bench.config.catalogue import describe_choices, find_conf_folder, read_summary
from avatar_bench.config.config_loader import COMMANDS_WITHOUT_MODE
from avatar_bench.config.entries import find_entry
from avatar_bench.config.options import Option, iterate_options

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
        lines.append(_format_row(group, chosen.get(group, default), f"one of: {' '.join(names)}"))
    lines += [*[""] * (len(lines) > 3), *_format_options(cfg, config.SCHEMAS[command], left_out=groups), ""]
    for name, options in cfg.block.items() if "block" in groups else ():
        lines.append(f"block {name}: {describe_choices('block')[name]}")
        for each, known in iterate_options(find_entry("block", str(name)).load_class()):
            lines.append(_format_row(f"block.{name}.{each.name}", options[each.name], _describe(known)))
        lines.append("")
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
    notes = {each.name: _describe(known) for each, known in iterate_options(schema)}
    below: list[str] = []
    for name in schema.__dataclass_fields__:
        value: Any = "..." if OmegaConf.is_missing(cfg, name) else cfg[name]
        kind = OmegaConf.get_type(value) if isinstance(value, DictConfig) else None
        if is_dataclass(kind):
            below += _format_options(value, kind, f"{prefix}{name}.", _SET_BY_GROUP)
        elif not (isinstance(value, DictConfig) and value) and f"{prefix}{name}" not in left_out:
            yield _format_row(prefix + name, value, notes.get(name, ""))
    yield from below


def _describe(known: Option) -> str:
    return "; ".join(filter(None, [" | ".join(map(str, known.list_choices())), known.help]))


def _format_row(option: str, value: Any, note: str) -> str:
    return f"  {f'{option}={_format_value(value)}':34}  {note}".rstrip()


def _format_value(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value).replace("'", "")  # as Hydra reads it
