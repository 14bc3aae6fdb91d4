"""Objects that a configuration names by `_target_`: the only module that calls Hydra's `instantiate`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from hydra.utils import instantiate

from avatar_bench.config.entries import find_user_folders
from avatar_bench.config.options import refuse_unknown_options
from avatar_bench.config.validation import INSTANTIATE_KEYS, TARGET
from avatar_bench.errors import AvatarBenchError, ConfigError, suggest_names


def build(option: str, node: Mapping[str, Any], expected: type, *arguments: Any, **values: Any) -> Any:
    """Build the object of a node {_target_: CLASS, argument: value, ...}, which `option` holds; `arguments` come first.

    A text {name} in an argument stands for the value of that name in `values`. Raise ConfigError that names the option
    and the class if it cannot be built, or is not of the type expected.
    """
    filled = _fill(node, values)
    if "${" in str(filled):  # literally, as all interpolations are resolved; Hydra would resolve it
        raise ConfigError(f"{option}={filled}: an argument cannot contain ${{.")
    with _explain(option, node):
        built = instantiate({**filled, "_partial_": True}, _convert_="all")(*arguments)
    if not isinstance(built, expected):
        raise ConfigError(
            f"{option}.{TARGET}={node[TARGET]}: expected a class of {expected.__name__}s, "
            f"but it makes {type(built).__name__}."
        )
    return built


def check_node(option: str, node: Any) -> None:
    """Raise ConfigError unless a node names, by `_target_`, what can be imported and takes the node's arguments."""
    if not isinstance(node, Mapping) or not isinstance(node.get(TARGET), str):
        raise ConfigError(
            f"{option}={node}: expected {{{TARGET}: CLASS, ...}}", f"For example: {option}.{TARGET}=CLASS"
        )
    with _explain(option, node):
        target: Callable[..., Any] = instantiate({TARGET: node[TARGET], "_partial_": True}).func
    check_arguments(option, target, [key for key in node if key not in INSTANTIATE_KEYS])


def check_arguments(option: str, target: Callable[..., Any], names: list[str]) -> None:
    """Raise ConfigError, with the nearest name, unless a class has arguments of these names."""
    known = inspect.signature(target).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        accepted = [name for name in known if name not in ("params", "optimizer")]  # which are not the user's to set
        refuse_unknown_options(option, names, accepted, getattr(target, "__name__", str(target)))


def _fill(value: Any, values: Mapping[str, Any]) -> Any:
    """Return an argument with {name} replaced; one that is nothing else gets the value itself, such as a number."""
    if isinstance(value, Mapping):
        return {key: _fill(inner, values) for key, inner in value.items()}
    if isinstance(value, list):
        return [_fill(inner, values) for inner in value]
    for name, known in values.items() if isinstance(value, str) else ():
        value = known if value == f"{{{name}}}" else value.replace(f"{{{name}}}", str(known))
        if not isinstance(value, str):
            break
    return value


@contextmanager
def _explain(option: str, node: Mapping[str, Any]) -> Iterator[None]:
    """Find modules of the user's folders too; raise ConfigError, with the reason, for an error inside the `with`."""
    before = list(sys.path)
    sys.path += [str(folder) for folder in find_user_folders()]
    try:
        yield
    except AvatarBenchError:
        raise
    except Exception as error:  # of Hydra, of a library or of a user's module
        while isinstance(error.__cause__, Exception) and type(error).__module__.startswith(("hydra.", "builtins")):
            error = error.__cause__  # what Hydra has wrapped
        if isinstance(error, AvatarBenchError):
            raise error from None
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        hint = "AVATAR_BENCH_DEBUG=1 shows the traceback."
        if isinstance(error, ImportError):
            reason = _find_nearest(node[TARGET]) or reason
            hint = "A module of yours is found in the folder of -cd DIR, or where Python finds it."
            if node[TARGET].startswith("pytorch_lightning.loggers."):
                hint = f'Install its package: pip install "avatar-bench[{option.rpartition(".")[2]}]"'
        raise ConfigError(f"{option}.{TARGET}={node[TARGET]}: {reason}", hint) from error
    finally:
        sys.path[:] = before


def _find_nearest(target: str) -> str:
    """Return what to say of a name that its module lacks; "" for a module that cannot be imported."""
    module, _, name = target.rpartition(".")
    try:
        known = [known for known, value in vars(import_module(module)).items() if isinstance(value, type)]
    except (ImportError, ValueError):
        return ""
    return "" if name in known else f"{module} has no {name}{suggest_names(name, known, '')}"
