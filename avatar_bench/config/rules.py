"""Checks of a configuration: of each option as the schema states it, and of what types cannot tell."""

from __future__ import annotations

from dataclasses import Field, fields, is_dataclass
from typing import Any

from omegaconf import MISSING, Container, DictConfig, ListConfig, OmegaConf, open_dict

from avatar_bench.config.entries import find_entry
from avatar_bench.config.options import Option, find_option, get_default, iterate_options
from avatar_bench.config.schema import (
    find_schema,
    format_alternatives,
)
from avatar_bench.config.validation import TARGET
from avatar_bench.errors import ConfigError, suggest_names
from avatar_bench.files.checkpoint_container import refuse_address
from avatar_bench.results.view import View

_FORMER_OPTIONS = {  # until 0.4
    "optimizer.base": "optimizer.name",
    "optimizer.schedule": "schedule=NAME, whose options are schedule.OPTION",
    "callbacks.ema": "callbacks=ema callbacks.ema.decay=VALUE",
    "callbacks.swa": "callbacks=swa callbacks.swa.start=VALUE",
    "callbacks.early_stopping": "callbacks=early_stopping callbacks.early_stopping.patience=VALUE",
    **{f"logger.{name}": f"logger=wandb logger.wandb.{name}=VALUE" for name in ("name", "project", "offline")},
}


def check_config(command: str, cfg: DictConfig) -> None:
    """Raise ConfigError if an option is missing, with an example, is unknown, or has an invalid value."""
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        options = [find_option(find_schema(command), name) for name in missing]
        examples = [option[1].example if option else "VALUE" for option in options]
        values = " ".join(f"{name}={example}" for name, example in zip(missing, examples, strict=True))
        raise ConfigError(
            f"{command} needs a value for {', '.join(missing)}",
            f"for example: avatar-bench {command} {values}",
        )
    _gather_others(cfg)
    OmegaConf.to_container(cfg, resolve=True)  # fail early on interpolations that cannot be resolved
    check_options(cfg)
    if (view := OmegaConf.select(cfg, "view")) is not None and view.name is not None:
        View.parse(view.name, OmegaConf.to_container(view.classes))  # type: ignore[arg-type]
    for name in ("ckpt", "init_from", "resume", "model.weights"):
        refuse_address(str(OmegaConf.select(cfg, name)), name)
    if check := getattr(find_entry("command", command).load(), "check", None):
        check(cfg)


def check_options(cfg: DictConfig, group: str = "") -> None:
    """Raise ConfigError for an option that is not in the schema, as Hydra accepts any by +, or an invalid value.

    `group` is the option that holds `cfg`; empty for the configuration of a command.
    """
    schema: Any = OmegaConf.get_type(cfg)
    known = [member.name for member in fields(schema)]
    for name in map(str, cfg):
        option = f"{group}.{name}".lstrip(".")
        if name not in known:
            raise ConfigError(f"{option}: no such option{suggest_names(name, known, '')}")
        inner: Any = cfg._get_node(name)
        several = isinstance(inner, ListConfig) and not inner._is_none()
        for index, node in enumerate(inner if several else [inner]):
            if is_dataclass(OmegaConf.get_type(node)):
                check_options(node, f"{option}[{index}]" if several else option)
    for member, stated in iterate_options(schema):
        _check_value(f"{group}.{member.name}".lstrip("."), OmegaConf.select(cfg, member.name), stated)
        if stated.only_for:
            _check_user(group, cfg, member, stated)


def _check_value(option: str, value: Any, stated: Option) -> None:
    value = OmegaConf.to_container(value, resolve=True) if isinstance(value, Container) else value
    if value == "" and stated.is_path:
        raise ConfigError(f"{option}= is empty: expected a path, or {option}=null for none")
    if value is not None and stated.entries:
        find_entry(stated.entries, value, f"{option}={value}")
    if value is not None and (expected := stated.find_fault(value)) is not None:
        raise ConfigError(f"{option}={value}: expected {expected}")


def _check_user(group: str, cfg: DictConfig, member: Field[Any], stated: Option) -> None:
    """Raise ConfigError if an option that some choices of its group use is set for another, or lacks a value."""
    chooser = next(field for field in fields(OmegaConf.get_type(cfg)) if field.name in ("kind", "name"))  # type: ignore[arg-type]
    chooser_name = group if get_default(chooser) is MISSING else f"{group}.{chooser.name}"
    option, value, user = f"{group}.{member.name}", cfg[member.name], cfg[chooser.name]
    if user in stated.only_for and value is None:
        raise ConfigError(f"{chooser_name}={user} requires {option}={'PATH' if stated.is_path else 'VALUE'}")
    if user not in stated.only_for and value != get_default(member):
        users = format_alternatives(stated.only_for)
        raise ConfigError(
            f"{option}={value} requires {chooser_name}={users}, but {group}.{chooser.name} is {user}",
            f"Use both: {chooser_name}={stated.only_for[0]} {option}={value}",
        )


def check_decisions(cfg: DictConfig) -> list[str]:
    """Return the option by which decisions are made, if any; raise ConfigError for two of them."""
    ways = ("target_error", "false_alarms", "costs")
    decides = [name for name in ways if OmegaConf.select(cfg, name) is not None]
    if len(decides) > 1:
        raise ConfigError(f"{decides[0]} and {decides[1]} exclude each other", "expected one of them")
    if (cfg.false_alarms is None) != (cfg.target is None):
        raise ConfigError("false_alarms and target need each other", "for example: false_alarms=.05 target=generated")
    if cfg.per_class and cfg.target_error is None:
        raise ConfigError("per_class=true requires target_error", "for example: target_error=.05 per_class=true")
    if cfg.unit == "source" and cfg.per_class:
        raise ConfigError("unit=source counts all classes of a source together", "remove per_class=true")
    return decides


def check_held_out(option: str, split: DictConfig) -> None:
    """Raise ConfigError if units are held out and what they are is not stated."""
    if split.held_out and split.by not in ("source", "generator"):
        raise ConfigError(
            f"{option}.held_out={split.held_out}: requires {option}.by=source or generator",
            f"for example: {option}.by=source '{option}.held_out=[tabler]'",
        )


def _gather_others(cfg: DictConfig) -> None:
    """Move what is set beside the options of an open group to the one that takes it: `a.NAME` to `a.others`."""
    for former, now in _FORMER_OPTIONS.items():
        value = OmegaConf.select(cfg, former)
        if value is not None and not (isinstance(value, DictConfig) and TARGET in value):
            raise ConfigError(f"{former}={value}: no such option", f"it is now {now}")
    for name in map(str, cfg):
        schema: Any = OmegaConf.get_type(cfg, name)
        if not hasattr(schema, "others_in"):
            continue
        group, rest, known = cfg[name], schema.others_in, {member.name for member in fields(schema)}
        for other in [other for other in group if other not in known]:
            if rest == "others" and not isinstance(group[other], DictConfig | None):
                raise ConfigError(f"{name}.{other}: no such option{suggest_names(str(other), known, '')}")
            with open_dict(group[rest]):
                group[rest][other] = group.pop(other)
