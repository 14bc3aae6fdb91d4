"""Registration with Hydra of what configurations are composed of: schemas, user folders, blocks and resolvers."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobRuntime
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf
from omegaconf.basecontainer import BaseContainer

from avatar_bench.config import config_loader
from avatar_bench.config.catalogue import find_choices, find_recipe, find_yaml_folders, list_blocks
from avatar_bench.config.entries import find_entry, find_provider
from avatar_bench.config.options import find_option
from avatar_bench.config.overrides import quote
from avatar_bench.config.schema import CORE, SCHEMAS, DataConfig, find_schema
from avatar_bench.console.terminal import print_line
from avatar_bench.files.yaml_io import read_yaml

LAUNCHERS: dict[str, dict[str, Any]] = {  # our defaults where they differ from the plugins'
    "joblib": {"n_jobs": 2},
    "submitit_local": {"name": "avatar_bench", "timeout_min": 1440, "stderr_to_stdout": True},
    "submitit_slurm": {
        "name": "avatar_bench",
        "timeout_min": 1440,
        "stderr_to_stdout": True,
        "cpus_per_task": 2,
        "setup": ["export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK"],  # else each job uses all cores of its machine
    },
}


class FurtherFolders(SearchPathPlugin):  # type: ignore[misc, unused-ignore]
    """Search path plugin that adds plug-ins, AVATAR_BENCH_CONF and installed packages after the project's own yaml."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append each folder."""
        for folder in find_yaml_folders()[1:]:
            search_path.append("avatar_bench", f"file://{folder}")


def register(command: str = "", overrides: Sequence[str] = ()) -> None:
    """Register the schemas for `defaults: [schema/<command>@_here_]`, the user folders, the blocks and the resolvers.

    Only the blocks that `overrides` name, else those of the command, are imported. `${units:source}` expands to the
    sources of the configured data set, one for each job of a sweep.
    """
    config_loader.install()
    store = ConfigStore.instance()
    if command:
        schema = find_schema(command)
        for key, _, value in (word.partition("=") for word in overrides):
            chosen = find_option(schema, key)
            if chosen and chosen[1].entries and find_provider(chosen[1].entries, value):
                find_entry(chosen[1].entries, value, f"{key}={value}")  # without it, its options would be unknown
        if find_recipe(command) is None:
            node: Any = {"defaults": [f"schema/{command}@_here_", "hydra_defaults", "_self_"]}
            store.store(name=command, node=node)
    known = store.repo.get("schema", {})
    for name in [command] if command else SCHEMAS:
        # building one takes as long as composing a configuration
        if f"{name}.yaml" not in known or SCHEMAS[name] is not CORE.get(name):
            store.store(group="schema", name=name, node=SCHEMAS[name])
    given = [word for word in overrides if re.match(r"\+{0,2}block=", word)]
    named = set(re.findall(r"\w+", " ".join(given))) or set(find_default_choices(command).get("block", ()))
    for name in sorted((named | set(list_blocks() if "all" in named else ())) & set(find_choices("block"))):
        node = find_entry("block", name).load_class()
        store.store(group="block", name=name, node=node, package=f"block.{name}")
    every: Any = {"defaults": [*list_blocks(), "_self_"], "skip_unusable": True}
    store.store(group="block", name="all", node=every, package="_global_")
    Plugins.instance().register(FurtherFolders)
    OmegaConf.register_new_resolver("units", _list_units_to_hold_out, replace=True)
    _set_launchers()


@contextmanager
def keep_hydra_state() -> Iterator[None]:
    """Restore afterwards what a command changes in Hydra: what `register` adds, and the state of an app that runs."""
    plugins, store = Plugins.instance(), ConfigStore.instance()  # importing plugins registers their configurations
    running = (GlobalHydra.instance(), HydraConfig.instance(), JobRuntime.instance(), VersionBase.instance())
    states = [(each, dict(vars(each))) for each in (plugins, store, *running)]
    resolvers, is_installed = dict(BaseContainer._resolvers), config_loader.is_installed()
    for each in (plugins, store, JobRuntime.instance()):
        vars(each).update(deepcopy(vars(each)))
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        for each, state in states:
            vars(each).update(state)
        BaseContainer._resolvers = resolvers
        if config_loader.is_installed() and not is_installed:
            config_loader.uninstall()


def find_default_choices(command: str) -> dict[str, Any]:
    """Return the groups in the defaults of a command's yaml, each with its default choice."""
    file = find_recipe(command)
    defaults = read_yaml(file)["defaults"] if file else []
    return {group: choice for each in defaults if isinstance(each, dict) for group, choice in each.items()}


def _set_launchers() -> None:
    store = ConfigStore.instance()
    installed = store.list("hydra/launcher")
    for name, options in LAUNCHERS.items():
        if f"{name}.yaml" in installed:
            plain = store.load(f"hydra/launcher/{name}.yaml")
            node = OmegaConf.merge(plain.node, options)
            store.store(group="hydra/launcher", name=name, node=node, provider=plain.provider)


def _list_units_to_hold_out(by: str, parts: int | None = None, *, _root_: DictConfig) -> str:
    """Return the values of data.split.held_out for a sweep over units, [a],[b], after data.limit is applied.

    With `parts`, the units are divided into as many lists, [a,b],[c,d], with equally many of each class, to one.
    """
    from avatar_bench.data.selection import limit_rows, mark_divided_rows
    from avatar_bench.data.splits import SplitPlan, divide_units, find_hold_out_units, name_units
    from avatar_bench.sources.dataset_kinds import open_dataset

    options = OmegaConf.to_object(_root_.data)
    assert isinstance(options, DataConfig)
    frame = open_dataset(options).frame
    plan = SplitPlan(seed=options.split.seed, by=by, limit=options.limit)
    rows, _ = limit_rows(mark_divided_rows(plan, frame), frame, plan)
    total = len(frame)
    frame = frame.iloc[rows].assign(**{by: name_units(frame[by].iloc[rows], options.split.units)})
    kept, reasons = find_hold_out_units(frame, by, options.split.at_least)
    if reasons:
        drawn = f" (of {len(rows)} images drawn, data.limit)" if len(rows) < total else ""
        skipped = ", ".join(f"{name} ({why})" for name, why in reasons.items())
        print_line(f"not held out{drawn}: {skipped}", file=sys.stderr)
    usable = frame[frame[by].isin(kept)]
    lists = [[name] for name in kept] if parts is None else divide_units(usable, by, parts, plan.seed)
    return ",".join(f"[{','.join(map(quote, names))}]" for names in lists)
