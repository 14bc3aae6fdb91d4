"""Files of tensors, by torch or safetensors, read as plain data alone."""

from __future__ import annotations

import json
import pickletools
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from avatar_bench.errors import CheckpointError
from avatar_bench.files.checkpoint_container import MAX_CONTAINER_BYTES, MAX_CONTAINER_RECORDS, check_torch_archive

MAX_PICKLE_BYTES = 8 * 1024**2  # bytes, of the description of the tensors
MAX_PLAIN_VALUES = 1_000_000  # in all; one that several others hold counts each time
MAX_VALUE_DEPTH = 40  # of values within values
MAX_SAFETENSORS_HEADER_BYTES = 16 * 1024**2  # bytes, of a .safetensors file
_GLOBALS = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)"
    r"|torch (Double|Float|Half|BFloat16|Long|Int|Short|Char|Byte|Bool)Storage"
)
_OPCODES = re.compile(  # what torch.save writes for tensors and plain values
    r"APPENDS?|BINFLOAT|BININT[12]?|(LONG_)?BIN(GET|PUT)|BINPERSID|BINUNICODE|BUILD|EMPTY_(DICT|LIST|TUPLE)|GLOBAL"
    r"|LONG1|MARK|NEW(FALSE|TRUE)|NONE|PROTO|REDUCE|SETITEMS?|STOP|TUPLE[123]?"
)


def read_torch_file(file: Path) -> Any:
    """Read what torch.save wrote; raise an error of one of many types on damage or on anything but plain data.

    What is read holds dicts, lists, tuples, strings, numbers, None and tensors on the CPU.
    """
    with file.open("rb") as stream:
        _refuse_objects(check_torch_archive(stream))
        stream.seek(0)
        # both stand here against the environment variable and the settings that would turn them round
        loaded = torch.load(stream, map_location="cpu", weights_only=True, mmap=False)
    return _PlainCopier().value(loaded)


def read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Give the tensors of a .safetensors file and the text beside them; raise an error of one of many types."""
    if file.stat().st_size > MAX_CONTAINER_BYTES:
        raise ValueError(f"it is larger than {MAX_CONTAINER_BYTES:,} bytes")
    with file.open("rb") as stream:
        if int.from_bytes(stream.read(8), "little") > MAX_SAFETENSORS_HEADER_BYTES:
            raise ValueError(f"its header is larger than {MAX_SAFETENSORS_HEADER_BYTES:,} bytes")
    with safe_open(str(file), framework="pt", device="cpu") as content:
        names = list(content.keys())
        if len(names) > MAX_CONTAINER_RECORDS:
            raise ValueError(f"it has more than {MAX_CONTAINER_RECORDS:,} tensors")
        return {name: content.get_tensor(name).clone() for name in names}, dict(content.metadata() or {})


def read_state(file: Path, old: bool = False) -> dict[str, Tensor]:
    """Give the tensors of a file of weights, also of one that torch wrote before 1.6 where it is `old`.

    Raises CheckpointError where it cannot be read, or holds anything else.
    """
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
            "Expected a .safetensors file, or a .pth file of torch 1.6 or newer that holds tensors alone.",
        ) from error
    return state


def encode_safetensors(state: Mapping[str, Tensor], texts: Mapping[str, str]) -> bytes:
    """Give the contents of a .safetensors file: the same for the same tensors and texts.

    The library writes the texts in an order of chance, and the hash of a file is what names its weights.
    """
    content = save(dict(state), dict(texts))
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)  # tensors begin where 8 divides
    return len(text).to_bytes(8, "little") + text + content[end:]


def read_plain_json(text: str) -> Any:
    """Read JSON whose numbers are all finite; raise ValueError or RecursionError."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no number")

    return json.loads(text, parse_constant=refuse)


def describe_error(error: BaseException) -> str:
    """Say in a line why a file was refused: our own words where there are some, else the kind of error."""
    known = type(error).__module__ in ("zipfile", "pickle", "_pickle", "builtins") and error.args
    line = str(error).splitlines()[0][:120].rstrip(".") if known and str(error) else ""
    return line if line and "Weights only load failed" not in line else type(error).__name__


def _refuse_objects(pickled: bytes) -> None:
    """Raise UnpicklingError where a pickle asks for more than tensors and plain values."""
    if len(pickled) > MAX_PICKLE_BYTES:
        raise UnpicklingError(f"its description is larger than {MAX_PICKLE_BYTES:,} bytes")
    for opcode, argument, _ in pickletools.genops(pickled):
        if not _OPCODES.fullmatch(opcode.name):
            raise UnpicklingError(f"it is written with {opcode.name}, which torch does not use for tensors")
        if opcode.name == "GLOBAL" and not _GLOBALS.fullmatch(str(argument)):
            raise UnpicklingError(f"it asks for {str(argument)[:80]!r}")


class _PlainCopier:
    """Copy loaded values as dicts, lists and tuples of tensors and plain values; refuse others, and too many."""

    def __init__(self) -> None:
        self.seen = 0

    def value(self, value: Any, depth: int = 0) -> Any:
        self.seen += 1
        if self.seen > MAX_PLAIN_VALUES or depth > MAX_VALUE_DEPTH:
            raise UnpicklingError("it holds too many values")
        if isinstance(value, dict):
            return {_check_key(key): self.value(inner, depth + 1) for key, inner in dict.items(value)}
        if type(value) in (list, tuple):
            return type(value)(self._all(value, depth + 1))
        if isinstance(value, Tensor):
            return _check_tensor(value)
        if value is None or type(value) in (str, int, float, bool):
            return value
        raise UnpicklingError(f"it holds a {type(value).__name__}")

    def _all(self, values: Any, depth: int) -> Iterator[Any]:
        return (self.value(value, depth) for value in values)


def _check_key(key: Any) -> Any:
    if type(key) not in (str, int):
        raise UnpicklingError(f"it has a name of type {type(key).__name__}")
    return key


def _check_tensor(tensor: Tensor) -> Tensor:
    """Give the tensor without whatever hangs on it; refuse one that is more than the bytes that the file holds."""
    if (
        type(tensor) not in (Tensor, torch.nn.Parameter)
        or tensor.layout != torch.strided
        or tensor.device.type != "cpu"
    ):
        raise UnpicklingError("it holds a tensor of an odd kind")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise UnpicklingError("it holds a tensor that is larger than its bytes")
    return tensor.detach()
