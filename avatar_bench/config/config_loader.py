"""Hydra config loader that limits and validates every configuration before anything is built from it."""

from __future__ import annotations

import os
from itertools import accumulate
from pathlib import Path
from typing import Any

import hydra._internal.hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from avatar_bench.config.catalogue import find_kinds_of_entries_alone, find_unused_groups
from avatar_bench.config.validation import check_interpolations, check_values
from avatar_bench.errors import ConfigError
from avatar_bench.files.yaml_io import MAX_YAML_DEPTH, read_checked_text

MAX_OVERRIDE_CHARACTERS, MAX_OVERRIDE_COMMAS = 1 << 16, 1000  # Hydra needs a second to parse such an override
_SINGLE_RUN = "hydra.mode=RUN"  # which Hydra adds to the overrides of a single run


class GroupRepository(ConfigRepository):  # type: ignore[misc, unused-ignore]
    """Hydra's configuration files, without folders of entries: `runtime=NAME` is a value although runtime/ exists."""

    def group_exists(self, config_path: str) -> bool:
        """Return whether a folder is a group, of which an override chooses a file."""
        return config_path not in find_kinds_of_entries_alone() and super().group_exists(config_path)


class CheckedLoader(ConfigLoaderImpl):  # type: ignore[misc, unused-ignore]
    """Hydra's loader, with every composed configuration checked by check_values.

    Hydra builds callbacks, sweeper, launcher and loggers from the result of load_configuration, in this process and in
    those of a sweep, which receive the loader by its class.
    """

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(config_search_path)
        self.repository = GroupRepository(config_search_path)
        self.composed: tuple[Any, DictConfig] | None = None  # by Hydra to find out whether to sweep, and its arguments

    def load_configuration(
        self, config_name: str | None, overrides: list[str], *args: Any, **options: Any
    ) -> DictConfig:
        """Compose a configuration; raise ConfigError if it, or Hydra's own node, holds an object to build.

        Hydra composes every configuration twice, first to read hydra.mode alone: that of a single run is used again.
        """
        for word in overrides:
            _check_override(word)
        for group, reason in find_unused_groups(config_name).items():
            overrides = _remove_group(group, f"{config_name} has no {group}s; {reason}", overrides)
        asked, composed = (config_name, *overrides), self.composed
        if composed and asked == (*composed[0], _SINGLE_RUN):
            self.composed, cfg = None, composed[1]
            parsed = OverridesParser.create().parse_overrides(overrides)
            self.validate_sweep_overrides_legal(parsed, RunMode.RUN, options.get("from_shell", True))
            cfg.hydra.mode = RunMode.RUN
            cfg.hydra.overrides.hydra.append(_SINGLE_RUN)
            return cfg
        cfg = super().load_configuration(config_name, overrides, *args, **options)
        values = OmegaConf.to_container(cfg, resolve=False)
        assert isinstance(values, dict)
        check_values(values)
        self.composed = None if options.get("validate_sweep_overrides", True) else (asked, cfg)
        return cfg


def install() -> None:
    """Patch Hydra to use CheckedLoader and the limits of files; each patch has a test in tests/test_patches.py."""
    # hydra-core 1.3.8 builds any object that a configuration names (facebookresearch/hydra#3258 plans a list of allowed
    # ones), and makes its loader itself
    hydra._internal.hydra.ConfigLoaderImpl = CheckedLoader  # type: ignore[misc, attr-defined, unused-ignore]
    Plugins.instance()  # registers the file source
    # omegaconf 2.3.1 reads YAML of any size and depth, and expands aliases; the class itself is patched, since a
    # replacement would be refused in the processes of a sweep
    files: Any = SourcesRegistry.instance().types["file"]
    if not hasattr(files, "plain_load_config"):
        files.plain_load_config, files.load_config = files.load_config, _load_within_limits


def is_installed() -> bool:
    """Return whether Hydra uses CheckedLoader."""
    return vars(hydra._internal.hydra)["ConfigLoaderImpl"] is CheckedLoader


def uninstall() -> None:
    """Undo `install`."""
    hydra._internal.hydra.ConfigLoaderImpl = ConfigLoaderImpl  # type: ignore[misc, attr-defined, unused-ignore]
    files: Any = SourcesRegistry.instance().types["file"]
    files.load_config = files.plain_load_config
    del files.plain_load_config


def _remove_group(group: str, reason: str, overrides: list[str]) -> list[str]:
    """Remove a group, which the yaml of a model sets; raise ConfigError if it is overridden."""
    for word in overrides:
        if word.lstrip("+").partition("=")[0].split(".")[0] == group:
            raise ConfigError(f"{word}: {reason}")
    return [*(word for word in overrides if word != f"~{group}"), f"~{group}"]


def _load_within_limits(self: Any, config_path: str) -> ConfigResult:
    """Load one file; raise ConfigError, naming it, if it exceeds the limits of yaml_io or is invalid."""
    file = Path(os.path.realpath(Path(self.path) / self._normalize_file_name(config_path)))
    if file.exists():
        read_checked_text(file)
    try:
        found: ConfigResult = self.plain_load_config(config_path)
        values = OmegaConf.to_container(found.config, resolve=False)
        check_values(values if isinstance(values, dict) else {"defaults": values}, str(file))
    except (ValueError, TypeError, RecursionError) as error:  # valid YAML that Python or OmegaConf rejects
        raise ConfigError(f"{file} cannot be read as YAML: {' '.join(str(error).split())[:200]}") from error
    return found


def _check_override(word: str) -> None:
    """Raise ConfigError if an override exceeds the limits, or would make Hydra run or look up something unsafe."""
    key, _, value = word.lstrip("+~").partition("=")
    depth = list(accumulate(1 if mark in "([{" else -1 if mark in ")]}" else 0 for mark in value))
    deep, many = max(depth, default=0) > MAX_YAML_DEPTH, value.count(",") > MAX_OVERRIDE_COMMAS
    if deep or many or len(word) > MAX_OVERRIDE_CHARACTERS:
        limits = f"{MAX_OVERRIDE_CHARACTERS} characters, {MAX_OVERRIDE_COMMAS} elements, or {MAX_YAML_DEPTH} levels"
        raise ConfigError(
            f"{key[:100]}: the value exceeds {limits}.",
            "Put long lists into a yaml file in your own folder: -cd DIR",
        )
    check_interpolations(word, word)
    if key == "hydra.searchpath" and "://" in value.replace("file://", ""):
        raise ConfigError(
            f"{word}: expected folders, such as hydra.searchpath=[my/conf].",
            "Packages are found by their entry point; pkg:// would run their code.",
        )
