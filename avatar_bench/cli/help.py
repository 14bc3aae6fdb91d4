"""Help text of one command: groups, options and defaults from the schema and the yaml."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import fields, is_dataclass
from typing import Any, cast

from hydra import compose, initialize_config_dir
from omegaconf import MISSING, DictConfig, OmegaConf

from avatar_bench.config import overrides
from avatar_bench.config.catalogue import describe_choices, find_commands, find_conf_folder, find_unused_groups
from avatar_bench.config.composition import find_default_choices, register
from avatar_bench.config.entries import find_entries, find_entry
from avatar_bench.config.options import get_default, iterate_options
from avatar_bench.config.path_quoting import find_main_option, name_bare_paths, quote_paths
from avatar_bench.config.schema import SWITCH, find_schema
from avatar_bench.runs.run_config import flatten_options

Row = tuple[str, str, str]  # an option, its value and what is known of it
_COMMANDS_WITH_RUN = ("evaluate", "vary", "calibrate")  # that accept data=run


def format_help(command: str, words: Sequence[str] = ()) -> str:
    """Return the help of a command: its groups with their choices and its options, one per line.

    `words` are the other command line words, such as block=NAME, which determine the options and values shown.
    """
    main = find_main_option(command)
    usage = f"avatar-bench {command} {f'[{main.upper()}] ' if main else ''}[option=value ...]"
    lines = [usage, find_commands()[command], ""]
    for title, rows in list_options(command, words).items():
        lines += [title] if ":" in title else []
        lines += [f"  {f'{option}={value}':34}  {note}".rstrip() for option, value, note in rows]
        lines += [""] if rows else []
    if command == "evaluate":
        lines.append("evaluate --help block=NAME lists the options of another block")
    lines.append("-m runs one job for each of several values (a=1,2)")
    return "\n".join([*lines, "--cfg job shows the whole configuration; -cd DIR adds a folder of yaml"])


def list_options(command: str, words: Sequence[str] = ()) -> dict[str, list[Row]]:
    """Return the groups and the options of a command, then those of each block, by title, with their values."""
    register(command, words)
    named = name_bare_paths(command, overrides.split_flags(words)[1])
    with initialize_config_dir(str(find_conf_folder()), version_base="1.3"):
        cfg = compose(command, quote_paths(command, named), return_hydra_config=True)
    chosen = cfg.hydra.runtime.choices
    unused = find_unused_groups(command)
    choices = find_default_choices(command).items()
    groups = {group: choice for group, choice in choices if group.isidentifier() and group not in unused}
    sections: dict[str, list[Row]] = {"groups": []}
    for group, default in groups.items():
        names = [name for name in describe_choices(group) if name != "run" or command in _COMMANDS_WITH_RUN]
        sections["groups"].append((group, _format_value(chosen.get(group, default)), f"one of: {' '.join(names)}"))
    sections["options"] = list(_list_rows(cfg, schema := find_schema(command), left_out=groups))
    if kind := getattr(schema, "options_of", None):
        entry = find_entries(kind).get("" if OmegaConf.is_missing(cfg, "kind") else cfg.kind)
        if entry and not entry.is_builtin:  # a user's own: the fields of any dataclass
            defaults = {f"options.{member.name}": get_default(member) for member in fields(entry.load_class())}
            title = f"{kind} {entry.name}: {entry.summary}"
            sections[title] = [(name, _format_value(default), "") for name, default in defaults.items()]
    for name, options in cfg.block.items() if "block" in groups else ():
        known = iterate_options(find_entry("block", str(name)).load_class())
        sections[f"block {name}: {describe_choices('block')[name]}"] = [
            (f"block.{name}.{member.name}", _format_value(options[member.name]), stated.describe())
            for member, stated in known
        ]
    return sections


def _list_rows(cfg: DictConfig, schema: Any, prefix: str = "", left_out: Collection[str] = ()) -> Iterator[Row]:
    """Yield a row for each option, top-level options before nested ones."""
    known = {member.name: stated for member, stated in iterate_options(schema)}
    below: list[Row] = []
    for member in fields(schema):
        name = member.name
        value: Any = "..." if OmegaConf.is_missing(cfg, name) else cfg[name]
        kind: Any = OmegaConf.get_type(value) if isinstance(value, DictConfig) else None
        # chosen with its group, such as optimizer.name by optimizer=NAME
        is_chosen = bool(prefix) and name in ("kind", "name") and get_default(member) is MISSING
        if is_dataclass(kind):
            below += _list_rows(value, kind, f"{prefix}{name}.")
        elif f"{prefix}{name}" not in left_out and not is_chosen:
            option = prefix.rstrip(".") if name == SWITCH else prefix + name
            shown = "{...}" if isinstance(value, DictConfig) and value else _format_value(value)
            yield option, shown, known[name].describe() if name in known else ""
    names, values = [member.name for member in fields(schema)], cast(dict[str, Any], OmegaConf.to_container(cfg))
    for key, node in values.items():  # the arguments of nodes, which the choices state
        if key not in names if prefix else key in left_out and key in known and known[key].is_open:
            arguments = flatten_options(node, f"{prefix}{key}")
            below += [(option, _format_value(value), "") for option, value in arguments.items() if value != {}]
    yield from below


def _format_value(value: Any) -> str:
    if value is None:
        return "null"
    if value is NO_DEFAULT:
        return "..."
    return str(value).lower() if isinstance(value, bool) else str(value).replace("'", "")  # as Hydra reads it
