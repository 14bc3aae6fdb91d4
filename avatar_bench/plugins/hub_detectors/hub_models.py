"""Networks in the formats of timm and transformers, from a folder or the Hugging Face hub, without any code in them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import constants
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file

from avatar_bench.data.equalise import ImageArray
from avatar_bench.errors import ConfigError, DataError
from avatar_bench.files.paths import is_hub_address, parse_hub_address
from avatar_bench.inference.predictor import choose_device
from avatar_bench.models.card_schema import NETWORK_OPTIONS, find_option_fault
from avatar_bench.models.classifier import limit_size
from avatar_bench.plugins.hub_detectors.timm_config import build_transform, read_class_names, select_transform

# what is copied: no code, and no pickle
_FILES = ("config.json", "preprocessor_config.json", "model.safetensors.index.json", "*.safetensors")


class LogitPredictor:
    """Predictor of decoded images by a network of torch, from their preprocessing to logits (N, C)."""

    def __init__(
        self,
        classes: Sequence[str],
        prepare: Callable[[Sequence[ImageArray]], torch.Tensor],
        compute: Callable[[torch.Tensor], torch.Tensor],
        net: torch.nn.Module,
        device: str,
    ) -> None:
        self.classes = tuple(classes)
        self.n_parameters = sum(tensor.numel() for tensor in net.parameters())
        self._prepare = prepare
        self._compute = compute
        self._device = device

    def predict_logits(self, images: Sequence[ImageArray]) -> NDArray[np.float32]:
        """Compute the logits (N, C) of decoded images."""
        with torch.inference_mode():
            return self._compute(self._prepare(images).to(self._device)).float().cpu().numpy()

    def predict(self, images: Sequence[ImageArray]) -> NDArray[np.float64]:
        """Compute the probabilities (N, C) of decoded images."""
        logits = torch.from_numpy(self.predict_logits(images)).double()
        return torch.softmax(logits, dim=1).numpy()


def copy_model(source: str, folder: Path) -> dict[str, Any]:
    """Copy the files of a model, and return its repository and commit if it is one of the hub.

    Raise DataError if there is no config.json or no weights as safetensors.
    """
    origin = _download(source, folder) if is_hub_address(source) else {}
    if not origin:
        if not Path(source).is_dir():
            raise DataError(f"folder={source} is not a folder.", "Expected one, or hf:OWNER/NAME@REVISION.")
        for file in sorted({file for pattern in _FILES for file in Path(source).glob(pattern) if file.is_file()}):
            shutil.copyfile(file, folder / file.name)
    for pattern, what in (("config.json", "config.json"), ("*.safetensors", "weights as .safetensors")):
        if not list(folder.glob(pattern)):
            raise DataError(
                f"{source} has no {what}.", "Pickled weights (.bin, .pt) are not read: save as safetensors."
            )
    return origin


def read_timm_settings(folder: Path, names: Sequence[str] | None) -> dict[str, Any]:
    """Return classes, architecture and preprocessing of a copied folder of timm; raise DataError if it is damaged."""
    config = _read_config(folder / "config.json")
    if "architecture" not in config:
        other = "model_type" in config
        hint = "It is one of transformers: kind=transformers" if other else "Expected the folder of save_for_hf."
        raise DataError("config.json names no architecture of timm.", hint)
    try:
        architecture, arguments = str(config["architecture"]), dict(config.get("model_args") or {})
        if arguments.pop("in_chans", 3) != 3:
            raise ValueError("its images do not have three channels")
        arguments.pop("num_classes", None)  # stated beside it, too
        transform = select_transform(config)
        classes = list(names or read_class_names(config))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"config.json is not one of timm: {type(error).__name__}: {error}.") from error
    n = config.get("num_classes")
    if len(classes) != n:
        raise ConfigError(f"The network has {n} outputs, but {len(classes)} class names.", "Name them: names=[...]")
    settings = {"classes": classes, "architecture": architecture, "arguments": arguments, "timm": transform}
    return settings | {"parameters": load_timm_model(folder, settings, "cpu").n_parameters}


def load_timm_model(folder: Path, settings: Mapping[str, Any], accelerator: str) -> LogitPredictor:
    """Build a network of timm with the copied weights; raise DataError for another network, or if they do not fit."""
    import timm

    classes, device = settings["classes"], choose_device(accelerator)
    architecture, arguments = str(settings["architecture"]), dict(settings["arguments"])
    if not timm.is_model(architecture):
        raise DataError(f"config.json: timm has no network {architecture!r}.")
    if fault := find_option_fault(arguments, NETWORK_OPTIONS):
        raise DataError(f"config.json: {fault}.")
    build = partial(timm.create_model, architecture, pretrained=False, num_classes=len(classes), **arguments)
    try:
        _refuse_larger(build, folder)
        net = build()
        net.load_state_dict(load_file(folder / "model.safetensors"))
    except Exception as error:  # networks take other options than those of a stranger in ways of their own
        reason = " ".join(" ".join(str(error).split()[:40]).split()) or type(error).__name__
        raise DataError(f"The weights do not fit {architecture}: {reason}") from error
    transform = build_transform(settings["timm"])

    def prepare(images: Sequence[ImageArray]) -> torch.Tensor:
        return torch.from_numpy(np.stack([transform(image) for image in images]))

    net = net.eval().to(device)
    return LogitPredictor(classes, prepare, net, net, device)


def read_transformers_settings(folder: Path) -> dict[str, Any]:
    """Return the classes of a copied folder of transformers; raise DataError for a network that needs other code."""
    config = _read_config(folder / "config.json")
    if "architecture" in config and "model_type" not in config:
        raise DataError("config.json names no model_type of transformers.", "It is one of timm: kind=timm")
    if config.get("problem_type") == "multi_label_classification":
        raise DataError("The network predicts several labels an image; expected one.")
    named = config.get("id2label") or {}
    try:
        classes = [str(named[key]) for key in sorted(named, key=int)]
    except (ValueError, TypeError) as error:
        raise DataError(f"config.json: id2label has no numbers: {error}.") from error
    settings = {"classes": classes}
    return settings | {"parameters": load_transformers_model(folder, settings, "cpu").n_parameters}


def load_transformers_model(folder: Path, settings: Mapping[str, Any], accelerator: str) -> LogitPredictor:
    """Build a network of transformers with its image processor from the copied folder."""
    if find_spec("transformers") is None:
        raise ConfigError(
            "kind=transformers needs transformers, which is not installed.", "pip install 'avatar-bench[transformers]'"
        )
    from PIL import Image

    config = _read_config(folder / "config.json")
    if "auto_map" in config:
        raise DataError("config.json names code of its own (auto_map), which is not run.")
    if "architecture" in config:
        raise DataError("config.json names a network of timm, which transformers would look for.", "Use kind=timm.")
    transformers: Any = import_module("transformers")  # an optional dependency, typed in part
    transformers.utils.logging.disable_progress_bar()
    local: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    device = choose_device(accelerator)
    try:
        with _stay_offline():
            processor = transformers.AutoImageProcessor.from_pretrained(folder, **local)
            stated = transformers.AutoConfig.from_pretrained(folder, **local)
            kind = transformers.AutoModelForImageClassification
            _refuse_larger(partial(kind.from_config, stated, trust_remote_code=False), folder)
            net, loading = kind.from_pretrained(folder, use_safetensors=True, output_loading_info=True, **local)
        if lacking := [*loading["missing_keys"], *loading["mismatched_keys"]]:
            raise ValueError(f"the weights lack {lacking[0]}")
        net = net.eval().to(device)
    except Exception as error:  # of any kind, depending on what is wrong with the files
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise DataError(f"transformers cannot load it: {reason}") from error

    def prepare(images: Sequence[ImageArray]) -> torch.Tensor:
        pixels: torch.Tensor = processor([Image.fromarray(image) for image in images], return_tensors="pt")[
            "pixel_values"
        ]
        return pixels

    return LogitPredictor(settings["classes"], prepare, lambda pixels: net(pixel_values=pixels).logits, net, device)


def _refuse_larger(build: Callable[[], torch.nn.Module], folder: Path) -> None:
    """Raise ValueError if a network has more parameters than the weights in a folder, before it takes any memory."""
    stated: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as content:
            shapes = {name: content.get_slice(name).get_shape() for name in content.keys()}  # noqa: SIM118
            stated |= {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    with torch.device("meta"), limit_size(stated):
        needed = sum(tensor.numel() for tensor in build().parameters())
    if needed > (there := sum(tensor.numel() for tensor in stated.values())):
        raise ValueError(f"the network has {needed:,} parameters, its weights {there:,}")


@contextmanager
def _stay_offline() -> Iterator[None]:
    """Ask the hub for nothing inside the `with`, whatever a configuration names."""
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _download(source: str, folder: Path) -> dict[str, Any]:
    """Download a model of the hub, pinned to its commit."""
    from huggingface_hub import HfApi, snapshot_download

    repository, revision = parse_hub_address(source, "folder")
    try:
        commit = HfApi().model_info(repository, revision=revision).sha
        snapshot = snapshot_download(repository, revision=commit, allow_patterns=list(_FILES))
    except Exception as error:  # of the network, of the hub, or of a missing repository
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"folder={source} cannot be downloaded: {reason}") from error
    for file in sorted(Path(snapshot).iterdir()):
        if file.is_file():
            shutil.copyfile(file, folder / file.name)
    return {"repository": repository, "commit": commit}


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file.name} cannot be read: {error}.") from error
    if not isinstance(config, dict):
        raise DataError(f"{file.name}: expected a JSON object.")
    return config
