"""The help of one command: its groups, options and defaults, read off the schema and the yaml."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from avatar_bench.config import overrides
from avatar_bench.config import schema as config
from avatar_bench.config.catalogue import choices, conf_folder, summary
from avatar_bench.config.config_loader import MODELESS

# said by the choice of the group, not typed
_NAMED_BY_GROUP = ("data.kind", "mode.name", "method.name", "optimizer.name", "logger.name")


def help_text(command: str, words: Sequence[str] = ()) -> str:
    """Compose a command and lay out its groups with their choices, and its options, one a line.

    `words` are what else was typed, such as block=NAME: the options and values shown are those that they choose.
    """
    flags, given = overrides.split_flags(words)
    folders = [flags[place + 1] for place, flag in enumerate(flags) if flag in ("-cd", "--config-dir")]
    if folders:
        given = [*given, f"hydra.searchpath=[{','.join(overrides.quote(os.path.abspath(one)) for one in folders)}]"]
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        cfg = compose(command, overrides.quote_paths(given), return_hydra_config=True)
    chosen = cfg.hydra.runtime.choices
    lines = [f"avatar-bench {command} [option=value ...]", summary(conf_folder() / f"{command}.yaml"), ""]
    groups = _groups(command)
    for group, default in groups.items():
        if group == "mode" and command in MODELESS:
            continue
        names = [name for name in choices(group) if name != "run" or command == "evaluate"]
        lines.append(_row(f"{group}={_show(chosen.get(group, default))}", f"one of: {' '.join(names)}"))
    lines += [*[""] * (len(lines) > 3), *_options(cfg, config.SCHEMAS[command], left_out=groups), ""]
    if "block" in groups:
        for name, options in cfg.block.items():
            lines += [*_block(str(name), options or {}, [Path(folder) for folder in folders]), ""]
    if command == "evaluate":
        lines.append("evaluate --help block=NAME lists the options of another block")
    lines.append("-m runs a job for each of several values (a=1,2)")
    return "\n".join([*lines, "--cfg job shows the whole configuration; -cd DIR adds a folder of yaml"])


def _groups(command: str) -> dict[str, Any]:
    """Give the groups of a primary config's defaults list with the choice of each."""
    defaults = OmegaConf.load(conf_folder() / f"{command}.yaml").defaults
    pairs = [pair for entry in defaults if isinstance(entry, DictConfig) for pair in entry.items()]
    return {str(group): choice for group, choice in pairs if str(group).isidentifier()}


def _options(cfg: DictConfig, schema: Any, prefix: str = "", left_out: Collection[str] = ()) -> Iterator[str]:
    """Give a row for each option, those at the top before those below."""
    below: list[str] = []
    for name in schema.__dataclass_fields__:
        value: Any = None if OmegaConf.is_missing(cfg, name) else cfg[name]
        kind = OmegaConf.get_type(value) if isinstance(value, DictConfig) else None
        if is_dataclass(kind):
            below += _options(value, kind, f"{prefix}{name}.", _NAMED_BY_GROUP)
        elif not (isinstance(value, DictConfig) and value) and f"{prefix}{name}" not in left_out:
            yield _row(f"{prefix}{name}={_default(cfg, name)}", _note(prefix + name, schema, name))
    yield from below


def _block(name: str, options: Mapping[Any, Any], folders: Sequence[Path]) -> Iterator[str]:
    """Give what a block does, and a row for each of its options, with what its yaml says of it."""
    yaml = choices("block", folders)[name]
    notes = dict(re.findall(r"^(\w+): .*?  # (.+)$", yaml.read_text(encoding="utf-8"), re.MULTILINE))
    yield f"block {name}: {summary(yaml)}"
    for option, value in options.items():
        yield _row(f"block.{name}.{option}={_show(value)}", notes.get(option, ""))


def _note(option: str, schema: Any, name: str) -> str:
    allowed = config.CHOICES.get(option)
    return _comments(schema).get(name) or ("one of: " + " ".join(allowed) if allowed else "")


def _default(cfg: DictConfig, name: str) -> str:
    return "..." if OmegaConf.is_missing(cfg, name) else _show(cfg[name])


def _row(option: str, note: str) -> str:
    return f"  {option:34}  {note}".rstrip()


def _comments(schema: Any) -> dict[str, str]:
    sources = [inspect.getsource(one) for one in reversed(schema.__mro__) if "__dataclass_fields__" in vars(one)]
    return dict(re.findall(r"^    (\w+): .*?  # (.+)$", "".join(sources), re.MULTILINE))


def _show(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value).replace("'", "")  # as Hydra reads it
