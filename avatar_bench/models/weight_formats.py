"""Tensor files of torch and safetensors, read as plain data only."""

from __future__ import annotations

import json
import pickletools
import re
import zipfile
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from avatar_bench.errors import CheckpointError
from avatar_bench.files.checkpoint_container import copy_torch_archive

MAX_PICKLE_BYTES = 8 * 1024**2  # of the description of the tensors; in memory, a value takes up to 64 times as many
MAX_PLAIN_VALUES = 1_000_000  # in total; a value that is referenced several times counts each time
MAX_VALUE_DEPTH = 40  # of nested values
_GLOBALS = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)"
    r"|torch (Double|Float|Half|BFloat16|Long|Int|Short|Char|Byte|Bool)Storage"
)


def read_torch_file(file: Path) -> Any:
    """Read a file of torch.save as plain data and CPU tensors; raise an error, of many types, for others."""
    with file.open("rb") as stream:
        pickled, copy = copy_torch_archive(stream)
    _refuse_objects(pickled)
    copy.seek(0)
    # both are stated because an environment variable and settings could change the defaults
    loaded = torch.load(copy, map_location="cpu", weights_only=True, mmap=False)
    copy.close()
    return _copy_plain(loaded, count(1))


def read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the texts of a .safetensors file; raise an error, of many possible types."""
    with safe_open(str(file), framework="pt", device="cpu") as content:
        tensors = {name: content.get_tensor(name).clone() for name in content.keys()}  # noqa: SIM118  # no mapping
        return tensors, dict(content.metadata() or {})


def read_state(file: Path, old: bool = False) -> dict[str, Tensor]:
    """Return the tensors of a file, with `old` also of torch before 1.6; raise CheckpointError for others."""
    try:
        if file.suffix == ".safetensors":
            return read_safetensors(file)[0]
        if old and not zipfile.is_zipfile(file):
            state = torch.load(file, map_location="cpu", weights_only=True, mmap=False)
        else:
            state = read_torch_file(file)
        state = dict(state.get("state_dict", state))
        if not all(isinstance(tensor, Tensor) for tensor in state.values()):
            raise TypeError("not all are tensors")
    except Exception as error:  # pickle, zip and safetensors errors of many types
        raise CheckpointError(
            f"{file} cannot be read as weights: {describe_error(error)}.",
            "Expected a .safetensors file, or a .pth file of torch 1.6 or newer that contains only tensors.",
        ) from error
    return state


def encode_safetensors(state: Mapping[str, Tensor], texts: Mapping[str, str]) -> bytes:
    """Return a .safetensors file, identical for identical contents: the library writes texts in random order."""
    content = save(dict(state), dict(texts))
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)  # tensors are aligned to 8 bytes
    return len(text).to_bytes(8, "little") + text + content[end:]


def describe_error(error: BaseException) -> str:
    """Describe in one line why a file was refused: by the message of a known error, else by the error's type."""
    known = type(error).__module__ in ("zipfile", "pickle", "_pickle", "builtins") and error.args
    line = str(error).splitlines()[0][:120].rstrip(".") if known and str(error) else ""
    return line if line and "Weights only load failed" not in line else type(error).__name__


def _refuse_objects(pickled: bytes) -> None:
    """Raise UnpicklingError if a pickle is too large or names more than tensors, even what torch was told to allow."""
    if len(pickled) > MAX_PICKLE_BYTES:
        raise UnpicklingError(f"its description is larger than {MAX_PICKLE_BYTES:,} bytes")
    for opcode, argument, _ in pickletools.genops(pickled):
        if "GLOBAL" in opcode.name and not _GLOBALS.fullmatch(str(argument)):
            raise UnpicklingError(f"it refers to {str(argument)[:80]!r}")


def _copy_plain(value: Any, counter: Iterator[int], depth: int = 0) -> Any:
    """Copy a loaded value of dicts, lists, tuples, bare tensors and plain values; refuse others, and too many."""
    if next(counter) > MAX_PLAIN_VALUES or depth > MAX_VALUE_DEPTH:
        raise UnpicklingError("it contains too many values")
    if isinstance(value, dict):
        for odd in (key for key in dict.keys(value) if type(key) not in (str, int)):
            raise UnpicklingError(f"it has a key of type {type(odd).__name__}")
        return {key: _copy_plain(inner, counter, depth + 1) for key, inner in dict.items(value)}
    if type(value) in (list, tuple):
        return type(value)(_copy_plain(inner, counter, depth + 1) for inner in value)
    if isinstance(value, Tensor):
        is_plain = type(value) in (Tensor, torch.nn.Parameter) and value.layout == torch.strided
        if not is_plain or value.device.type != "cpu":
            raise UnpicklingError("it contains a tensor of an unusual kind")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise UnpicklingError("it contains a tensor that is larger than its bytes")
        return value.detach()
    if value is None or type(value) in (str, int, float, bool):
        return value
    raise UnpicklingError(f"it contains a {type(value).__name__}")
