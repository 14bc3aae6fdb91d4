"""Composition by Hydra: schemas, folders, blocks and resolvers, and a loader that checks what it has composed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy, deepcopy
from dataclasses import fields
from typing import Any

import hydra._internal.hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobRuntime
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf
from omegaconf.basecontainer import BaseContainer
from yaml import YAMLError

from avatar_bench.config.catalogue import (
    find_choices,
    find_kinds_of_entries_alone,
    find_recipe,
    find_unused_groups,
    find_yaml_folders,
    list_blocks,
)
from avatar_bench.config.entries import explain_missing, find_entry, find_renamed
from avatar_bench.config.options import find_option, get_nested
from avatar_bench.config.schema import find_schema
from avatar_bench.config.validation import check_interpolations, check_values
from avatar_bench.console.terminal import print_note
from avatar_bench.errors import ConfigError
from avatar_bench.files.document import read_yaml

_SUBMITIT = {"name": "avatar_bench", "timeout_min": 1440, "stderr_to_stdout": True}
LAUNCHERS: dict[str, dict[str, Any]] = {  # our defaults where they differ from the plugins'
    "joblib": {"n_jobs": 2},
    "submitit_local": _SUBMITIT,
    # by default each job would use all cores of its machine
    "submitit_slurm": _SUBMITIT | {"cpus_per_task": 2, "setup": ["export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK"]},
}
_MOST_VALIDATED = 256  # kept configurations of jobs, of .7 MB each: other processes compose theirs again
_SINGLE_RUN = "hydra.mode=RUN"  # which Hydra adds to the overrides of a single run


class FileRepository(ConfigRepository):  # type: ignore[misc, unused-ignore]
    """Hydra's configuration files, without folders of entries: `runtime=NAME` is a value although runtime/ exists."""

    def __deepcopy__(self, memo: dict[int, Any]) -> FileRepository:
        """Return a copy whose sources can be replaced, as Hydra does, but not the schemas that they share."""
        return copy(self)

    def load_config(self, config_path: str) -> ConfigResult | None:
        """Load one file; raise ConfigError, naming it, if it is not YAML in UTF-8, or its defaults are none."""
        try:
            return super().load_config(config_path)  # type: ignore[no-any-return, unused-ignore]
        except (YAMLError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(f"{config_path}.yaml cannot be read: {reason}") from error

    def group_exists(self, config_path: str) -> bool:
        """Return whether a folder is a group, of which an override chooses a file."""
        return config_path not in find_kinds_of_entries_alone() and super().group_exists(config_path)


class CheckedLoader(ConfigLoaderImpl):  # type: ignore[misc, unused-ignore]
    """Hydra's loader, with every composed configuration checked by check_values.

    By a patch, as Hydra calls nothing between composing and writing a configuration (facebookresearch/hydra#3188), and
    composes each twice (#3440), those of a sweep's jobs first to validate them all. The processes of a sweep receive
    the loader by its class.
    """

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self.repository = FileRepository(config_search_path)
        # by Hydra to find out whether to sweep, or why it could not be composed, after the arguments
        self.composed: tuple[Any, DictConfig | Exception] | None = None
        self.validated: dict[Any, DictConfig] = {}  # those of jobs, until they begin

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process of a sweep needs."""
        return vars(self) | {"validated": {}}

    def load_configuration(
        self, config_name: str | None, overrides: list[str], *args: Any, **options: Any
    ) -> DictConfig:
        """Compose a configuration; raise ConfigError if it could expose a secret.

        Hydra composes every configuration twice, first to read hydra.mode or to validate a job: that of a single run or
        a job is used again, and what stood against a single run is said again.
        """
        for word in overrides:
            check_interpolations(word, word)
        for group, reason in find_unused_groups(config_name).items():  # which the yaml of a model sets
            overrides = [word for word in overrides if word != f"~{group}"]
            if chosen := [word for word in overrides if re.match(rf"\+*{group}[.=]", word)]:
                raise ConfigError(f"{chosen[0]}: {config_name} has no {group}s; {reason}")
            overrides.append(f"~{group}")
        arguments, composed = (config_name, *overrides), self.composed
        if composed and arguments == (*composed[0], _SINGLE_RUN):
            self.composed, cfg = None, composed[1]
            if isinstance(cfg, Exception):
                raise cfg
            parsed = OverridesParser.create().parse_overrides(overrides)
            self.validate_sweep_overrides_legal(parsed, RunMode.RUN, options.get("from_shell", True))
            cfg.hydra.mode = RunMode.RUN
            cfg.hydra.overrides.hydra.append(_SINGLE_RUN)
            return cfg
        if arguments in self.validated:
            return self.validated.pop(arguments)
        reads_mode = not options.get("validate_sweep_overrides", True)
        try:
            cfg = super().load_configuration(config_name, overrides, *args, **options)
            values = OmegaConf.to_container(cfg, resolve=False)
            assert isinstance(values, dict)
            check_values(values)
        except Exception as error:
            self.composed = (arguments, error) if reads_mode else None
            raise
        self.composed = (arguments, cfg) if reads_mode else None
        if options.get("run_mode") == RunMode.RUN and len(self.validated) < _MOST_VALIDATED:
            self.validated[arguments] = cfg
        return cfg


class FurtherFolders(SearchPathPlugin):  # type: ignore[misc, unused-ignore]
    """Search path plugin that adds plug-ins, AVATAR_BENCH_CONF and installed packages after the project's own yaml."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append each folder."""
        for folder in find_yaml_folders()[1:]:
            search_path.append("avatar_bench", f"file://{folder}")


def register(command: str, overrides: Sequence[str] = ()) -> None:
    """Register the schema for `defaults: [schema/<command>@_here_]`, the user folders, the blocks and the resolvers.

    Only the blocks that `overrides` name, else those of the command, are imported. `${units:source}` expands to the
    sources of the configured data set, one for each job of a sweep.
    """
    hydra._internal.hydra.ConfigLoaderImpl = CheckedLoader  # type: ignore[misc, attr-defined, unused-ignore]
    store, schema = ConfigStore.instance(), find_schema(command)
    for key, _, value in (word.partition("=") for word in overrides):
        chosen = find_option(schema, key)
        if chosen and chosen[1].entries and explain_missing(chosen[1].entries, value):
            find_entry(chosen[1].entries, value, f"{key}={value}")  # without it, its options would be unknown
    if find_recipe(command) is None:
        node: Any = {"defaults": [f"schema/{command}@_here_", "hydra_defaults", "_self_"]}
        store.store(name=command, node=node)
    stated = OmegaConf.structured(schema)
    for member in fields(schema):
        if hasattr(get_nested(member), "others_in"):  # Hydra then takes any name in it, also in a yaml
            OmegaConf.set_struct(stated[member.name], False)
    store.store(group="schema", name=command, node=stated)
    block_words = " ".join(word for word in overrides if re.match(r"\+{0,2}block=", word))
    named = re.findall(r"\w+", block_words) or find_default_choices(command).get("block", ())
    choices, renamed = find_choices("block"), find_renamed("block") if block_words else {}
    for name in dict.fromkeys([*named, *(list_blocks() if "all" in named else ())]):
        if name in renamed:
            print_note(f"warning: block '{name}' is now '{renamed[name]}'")
        if (now := renamed.get(name, name)) in choices:
            store.store(group="block", name=name, node=find_entry("block", now).load_class(), package=f"block.{now}")
    every: Any = {"defaults": [*list_blocks(), "_self_"], "skip_unusable": True}
    store.store(group="block", name="all", node=every, package="_global_")
    Plugins.instance().register(FurtherFolders)
    OmegaConf.register_new_resolver("units", _list_units_to_hold_out, replace=True)
    installed = store.list("hydra/launcher")
    for name, options in LAUNCHERS.items():
        if f"{name}.yaml" in installed:
            plain = store.load(f"hydra/launcher/{name}.yaml")
            node = OmegaConf.merge(plain.node, options)
            store.store(group="hydra/launcher", name=name, node=node, provider=plain.provider)


@contextmanager
def keep_hydra_state() -> Iterator[None]:
    """Restore afterwards what a command changes in Hydra: what `register` adds, and the state of an app that runs."""
    plugins, store = Plugins.instance(), ConfigStore.instance()  # importing plugins registers their configurations
    running = (GlobalHydra.instance(), HydraConfig.instance(), JobRuntime.instance(), VersionBase.instance())
    states = [(holder, dict(vars(holder))) for holder in (plugins, store, *running, hydra._internal.hydra)]
    resolvers = dict(BaseContainer._resolvers)
    for holder in (plugins, store, JobRuntime.instance()):
        vars(holder).update(deepcopy(vars(holder)))
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        for holder, state in states:
            vars(holder).update(state)
        BaseContainer._resolvers = resolvers


def find_default_choices(command: str) -> dict[str, Any]:
    """Return the groups in the defaults of a command's yaml, each with its default choice."""
    file = find_recipe(command)
    defaults = read_yaml(file)["defaults"] if file else []
    return {group: choice for default in defaults if isinstance(default, dict) for group, choice in default.items()}


def _list_units_to_hold_out(by: str, parts: int | None = None, *, _root_: DictConfig) -> str:
    from avatar_bench.sources.dataset_kinds import list_units_to_hold_out  # imports pandas

    return list_units_to_hold_out(OmegaConf.to_object(_root_.data), by, parts)  # type: ignore[arg-type]
