"""Networks in ONNX files of others: their check, their statement of preprocessing, and their predictor."""

from __future__ import annotations

import importlib
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from avatar_bench.data.equalise import ImageArray
from avatar_bench.data.transforms import Preprocessing
from avatar_bench.errors import CheckpointError, ConfigError, DataError
from avatar_bench.files.checkpoint_container import refuse_address
from avatar_bench.inference.foreign_tables import ScoreScale
from avatar_bench.inference.predictor import ImproperError, normalise_rows
from avatar_bench.inference.runtimes import refuse_missing_package
from avatar_bench.inference.runtimes.onnx import import_onnxruntime
from avatar_bench.models.checkpoint import CARD_KEY
from avatar_bench.models.model_card import Card
from avatar_bench.plugins.hub_detectors.timm_config import build_transform, read_class_names, select_transform
from avatar_bench.results.view import name_classes

MAX_NETWORK_BYTES = 2 * 2**30
_NETWORK = "network.onnx"
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")  # of the operators that onnxruntime contains
_STATED = ("layout", "size", "resize", "mean", "std", "range", "output", "names")
_TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(float16)": np.float16}
_TYPES |= {"tensor(double)": np.float64}
_WEIGHT_TYPES = (1, 10, 11, 16)  # of TensorProto.DataType: float, float16, double, bfloat16


def import_network(file: Path, folder: Path, stated: Mapping[str, Any], check: Callable[..., object]) -> dict[str, Any]:
    """Copy a network with its external data and return the settings of its predictor.

    `check` raises ConfigError for values that the file states and that are invalid.

    Raise ConfigError for a missing or wrong statement, DataError for a file that is no usable network.
    """
    refuse_missing_package("onnx", "kind=onnx")
    refuse_address(str(file), "file")
    model, parts = _read_model(file)
    shutil.copyfile(file, folder / _NETWORK)
    for part in parts:
        target = folder / part
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file.parent / part, target)
    session = _load_session(folder, "cpu")
    settings = _state_settings(session, file, stated, _read_metadata(model, file, check))
    _try_network(OnnxPredictor(folder, settings, "cpu"), settings, describe_network(session))
    weights = (tensor for tensor in model.graph.initializer if tensor.data_type in _WEIGHT_TYPES)
    return settings | {"parameters": sum(math.prod(tensor.dims) for tensor in weights)}


def describe_network(session: Any) -> str:
    """Return a sentence on the inputs and outputs of a network."""
    inputs, outputs = (
        ", ".join(f"{value.name} {value.type} ({', '.join(map(str, value.shape))})" for value in some)
        for some in (session.get_inputs(), session.get_outputs())
    )
    return f"The network expects {inputs} and returns {outputs}."


class OnnxPredictor:
    """Predictor of decoded images by a network in onnxruntime, on the CPU or on CUDA."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], accelerator: str) -> None:
        self.settings = settings
        self.classes = tuple(settings["classes"])
        self._session = _load_session(folder, accelerator)
        self._input = next(value for value in self._session.get_inputs() if value.name == settings["input"])
        self._transform = build_transform(settings["timm"]) if "timm" in settings else None
        if self._transform is None:
            self.preprocessing = Preprocessing.from_dict(settings["preprocessing"])
        if settings["output"] == "logits":
            self.predict_logits = lambda images: self._run(images, settings["main"]).astype(np.float32)
        if "embeddings" in settings:
            self.embed = lambda images: self._run(images, settings["embeddings"])

    def predict(self, images: Sequence[ImageArray]) -> NDArray[np.float64]:
        """Compute the probabilities (N, C) of decoded images; raise DataError if the network returns none."""
        outputs = self._run(images, self.settings["main"]).astype(np.float64)
        if self.settings["output"] == "logits":
            return np.asarray(softmax(outputs / self.settings.get("temperature", 1.0), axis=1))
        try:
            if self.settings["score"] is None:
                return normalise_rows(outputs)
            scale = ScoreScale(**self.settings["scale"])
            if scale.is_probability:
                normalise_rows(np.column_stack([outputs, 1 - outputs]))
            return scale.to_probabilities(outputs.reshape(-1), self.settings["threshold"])
        except ImproperError as error:
            reason = "The network returns no probabilities: state output=logits or output=score."
            raise DataError(reason) from error

    def _run(self, images: Sequence[ImageArray], output: str) -> NDArray[Any]:
        """Return one output (N, D) of the network, in batches of the size that it may fix."""
        batch, fixed = self._prepare(images), self._input.shape[0]
        size = fixed if isinstance(fixed, int) else len(batch)
        parts = []
        for first in range(0, len(batch), size):
            part = batch[first : first + size]
            padded = np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), part.dtype)])
            parts.append(np.asarray(self._session.run([output], {self._input.name: padded})[0])[: len(part)])
        return np.concatenate(parts).reshape(len(batch), -1)

    def _prepare(self, images: Sequence[ImageArray]) -> NDArray[Any]:
        kind = _TYPES[self._input.type]
        if self._transform is not None:
            batch = np.stack([self._transform(image) for image in images])  # (N, 3, S, S)
            return np.ascontiguousarray(batch.transpose(0, 2, 3, 1) if self.settings["layout"] == "NHWC" else batch)
        squares: NDArray[Any] = np.stack([self.preprocessing(image) for image in images])
        if kind is not np.uint8:
            mean, std = (np.array(self.settings["preprocessing"][name], np.float32) for name in ("mean", "std"))
            squares = (squares.astype(np.float32) / np.float32(255) - mean) / std
        if self.settings["layout"] == "NCHW":
            squares = squares.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(squares, dtype=kind)


def _read_model(file: Path) -> tuple[Any, list[str]]:
    """Return the model without external data, and the paths of these; raise DataError for what is not allowed."""
    onnx: Any = importlib.import_module("onnx")
    helper: Any = importlib.import_module("onnx.external_data_helper")
    try:
        if file.stat().st_size > MAX_NETWORK_BYTES:
            raise ValueError(f"it is larger than {MAX_NETWORK_BYTES / 2**30:.0f} GiB")
        model = onnx.load(str(file), load_external_data=False)
        if not model.graph.node:
            raise ValueError("it holds no network")
        tensors = list(helper._get_all_tensors(model))
        parts = sorted(
            {helper.ExternalDataInfo(tensor).location for tensor in tensors if helper.uses_external_data(tensor)}
        )
    except Exception as error:  # protobuf's errors are of several types
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:150] or type(error).__name__
        raise DataError(f"{file} cannot be read as ONNX: {reason}.") from error
    inside = {function.domain for function in model.functions}
    foreign = sorted({tensor.domain for tensor in model.opset_import} - set(_DOMAINS) - inside)
    if foreign:
        raise DataError(
            f"{file} needs custom operators of {', '.join(foreign)}, which are code.",
            "Export the network with operators of ONNX alone.",
        )
    root = file.parent.resolve()
    for part in parts:
        path = file.parent / part
        if not path.resolve().is_relative_to(root) or Path(part).is_absolute() or path.is_symlink():
            raise DataError(f"{file}: its external data {part} lies outside its folder.")
        if not path.is_file():
            raise DataError(f"{file}: its external data {part} is missing.")
    if file.stat().st_size + sum((file.parent / part).stat().st_size for part in parts) > MAX_NETWORK_BYTES:
        raise DataError(f"{file} with its external data is larger than {MAX_NETWORK_BYTES / 2**30:.0f} GiB.")
    return model, parts


def _load_session(folder: Path, accelerator: str) -> Any:
    onnxruntime = import_onnxruntime()
    has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if accelerator == "gpu" and not has_cuda:
        raise ConfigError("accelerator=gpu: onnxruntime finds no GPU here.", "Install onnxruntime-gpu, or remove it.")
    providers = ["CUDAExecutionProvider"] * (has_cuda and accelerator != "cpu") + ["CPUExecutionProvider"]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(folder / _NETWORK), options, providers=providers)
    except Exception as error:  # onnxruntime has several types
        raise DataError(f"The network cannot be loaded: {' '.join(str(error).split())[:200]}") from error


def _read_metadata(model: Any, file: Path, check: Callable[..., object]) -> dict[str, Any]:
    """Return what the file, or a timm config.json beside it, states."""
    texts = {prop.key: prop.value for prop in model.metadata_props}
    if CARD_KEY in texts:  # `export` has written it
        card = Card.from_checkpoint({CARD_KEY: _parse(texts[CARD_KEY])}, file)
        known = {"names": list(card.classes), "layout": "NCHW", "range": 255, "output": "logits"}
        return known | {"preprocessing": card.preprocessing, "temperature": card.temperature}
    stated = {name: _parse(texts[name]) for name in _STATED if name in texts}
    check(file=str(file), **stated)
    config = file.with_name("config.json")
    if config.is_file():
        try:
            content = json.loads(config.read_text(encoding="utf-8"))
            transform = select_transform(content)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{config} cannot be read as a config.json of timm: {error}.") from error
        names = read_class_names(content)
        stated = {"timm": transform, "layout": "NCHW", "range": 1, "size": transform["input_size"][-1]} | stated
        stated |= {"names": names} if names and "names" not in stated else {}
    return stated


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _state_settings(session: Any, file: Path, stated: Mapping[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the predictor; raise ConfigError for anything that is missing or impossible.

    Of a network of uint8, mean and standard deviation are part.
    """
    described = describe_network(session)
    network_input = _find_input(session, stated.get("input"), described)
    values: dict[str, Any] = known | dict(stated)
    if set(stated) & {"resize", "mean", "std"}:
        values.pop("timm", None)
        values.pop("preprocessing", None)
    values = _read_shape(network_input.shape, values, described) | values
    if network_input.type == "tensor(uint8)":
        values = dict[str, Any](mean=[0.0] * 3, std=[1.0] * 3, range=255) | values
    if values.get("score"):
        values["names"] = name_classes(values["score"])
        values["output"] = "score" if values.get("output") == "logits" else values.get("output", "score")
    done = {"resize", "mean", "std"} if {"timm", "preprocessing"} & set(values) else set()
    if missing := [name for name in _STATED if name not in {*values, *done} and not (name == "size" and done)]:
        raise ConfigError(
            f"{file} does not state {', '.join(missing)}.",
            described,
            f"State it: {' '.join(f'{name}=...' for name in missing)}",
        )
    names = [output.name for output in session.get_outputs()]
    settings: dict[str, Any] = {
        "classes": [str(name) for name in values["names"]],
        "input": network_input.name,
        "layout": values["layout"],
        "output": values["output"],
        "main": values["output"] if values["output"] in names else names[0],
        "score": values.get("score"),
        "threshold": values.get("threshold"),
    }
    if values.get("score"):
        settings["scale"] = asdict(ScoreScale(is_probability=values["output"] == "probabilities"))
    if "timm" in values:
        return settings | {"timm": values["timm"]}
    if "preprocessing" not in values:
        mean, std = ([float(value) / values["range"] for value in values[name]] for name in ("mean", "std"))
        values["preprocessing"] = {"size": values["size"], "resize": values["resize"], "mean": mean, "std": std}
    try:
        Preprocessing.from_dict(values["preprocessing"])
    except CheckpointError as error:
        raise ConfigError(f"{file}: {error.lines[0]}", described) from error
    kept = {name: values[name] for name in ("preprocessing", "temperature") if name in values}
    return settings | kept | ({"embeddings": "embeddings"} if "temperature" in values and "embeddings" in names else {})


def _find_input(session: Any, name: str | None, described: str) -> Any:
    inputs = session.get_inputs()
    if name is None and len(inputs) > 1:
        raise ConfigError("The network has several inputs: input=NAME is needed, that of images.", described)
    network_input = next((candidate for candidate in inputs if name in (None, candidate.name)), None)
    if network_input is None:
        raise ConfigError(f"input={name}: the network has no such input.", described)
    if len(inputs) > 1 or network_input.type not in _TYPES or len(network_input.shape) != 4:
        raise ConfigError("The network must have one input of images, four numbers deep.", described)
    return network_input


def _read_shape(shape: Sequence[Any], values: Mapping[str, Any], described: str) -> dict[str, Any]:
    """Return layout and size as far as the shape fixes them; raise ConfigError if it contradicts a statement."""
    channels = {"NCHW": shape[1], "NHWC": shape[3]}
    possible = [layout for layout, count in channels.items() if count == 3 or not isinstance(count, int)]
    fixed = [layout for layout in possible if channels[layout] == 3]
    layout = values.get("layout") or (fixed[0] if len(fixed) == 1 else None)
    if layout is not None and layout not in (fixed or possible):
        raise ConfigError(f"layout={layout} does not fit the network's shape.", described)
    layout_values: dict[str, Any] = {} if layout is None else {"layout": layout}
    sides = {"NCHW": shape[2:], "NHWC": shape[1:3]}.get(str(layout), ())
    numbers = {side for side in sides if isinstance(side, int)}
    size = values.get("size") or values.get("preprocessing", {}).get("size")
    if len(numbers | ({size} if size else set())) > 1:
        raise ConfigError(f"size={size}: the network expects squares of another size.", described)
    return layout_values | ({"size": numbers.pop()} if numbers else {})


def _try_network(predictor: OnnxPredictor, settings: Mapping[str, Any], described: str) -> None:
    """Raise ConfigError if a grey image has no prediction of each class."""
    grey = np.full((64, 64, 3), 128, np.uint8)
    try:
        probabilities = predictor.predict([grey])
    except (DataError, ConfigError) as error:
        raise ConfigError(error.lines[0], described) from error
    except Exception as error:  # onnxruntime has several types
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"The network fails on an image: {reason}", described) from error
    if probabilities.shape != (1, len(settings["classes"])) or not np.isfinite(probabilities).all():
        n = probabilities.shape[-1]
        raise ConfigError(
            f"The network returns {n} finite numbers an image for {len(settings['classes'])} classes.", described
        )
