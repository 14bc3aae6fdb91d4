"""A network with its label contract, loaded only if the weights fit, before the network takes any memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from avatar_bench.errors import CheckpointError, ConfigError
from avatar_bench.models.backbones import create_backbone
from avatar_bench.models.checkpoint import read_checkpoint
from avatar_bench.models.model_card import Card

_IMAGES_AT_A_TIME = 16
_SPARE_BYTES = 1024**3  # bytes that a network may need besides its weights, such as for masks
_MODULES_PER_TENSOR = 50  # modules that a network may have per tensor of its weights
_MAX_COPIES = 4  # times that a weight may be created during construction, as timm does for a new classifier


class Classifier(nn.Module):
    """A network that maps uint8 images (N, 3, S, S) to logits (N, C), in card order, and embeddings (N, D)."""

    mean: Tensor
    std: Tensor

    def __init__(self, card: Card, net: nn.Module) -> None:
        super().__init__()
        self.card = card
        self.net = net
        for name in ("mean", "std"):  # not part of the state dict: the card has them
            values = torch.tensor([float(value) for value in card.preprocessing[name]])
            self.register_buffer(name, values.view(3, 1, 1), persistent=False)

    @staticmethod
    def load(file: Path) -> Classifier:
        """Load the classifier of a checkpoint on the CPU, in eval mode, without unpickling objects.

        Builds the network only after names and sizes have been checked. Raises CheckpointError.
        """
        checkpoint = read_checkpoint(file)
        card = Card.from_checkpoint(checkpoint, file)
        state = checkpoint.get("state_dict")
        try:
            _refuse_incompatible(state, card.backbone, len(card.classes), card.options)
            net = create_backbone(card.backbone, len(card.classes), options=card.options)
        except ConfigError as error:
            raise CheckpointError(f"{file}: its network cannot be built.", *error.lines[:2]) from error
        except ValueError as error:
            raise CheckpointError(f"{file}: its weights do not fit its network {card.backbone}: {error}.") from error
        classifier = Classifier(card, net)
        classifier.load_state_dict(checkpoint["state_dict"])
        return classifier.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and pre-logits embeddings of one pass."""
        embeddings = self.embed(images)
        return self.classify(embeddings), embeddings

    def compute(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same as `forward`; on a CPU, the embeddings are of parts of a batch.

        A layer's output for 32 images fits neither into a processor's caches nor into the 32 MiB that malloc keeps.
        The logits are of the whole batch: in parts, they would end in other digits, which embeddings do not.
        """
        parts = max(1, len(images) // _IMAGES_AT_A_TIME) if images.device.type == "cpu" else 1
        embeddings = torch.cat([self.embed(part) for part in images.tensor_split(parts)])
        return self.classify(embeddings), embeddings

    def embed(self, images: Tensor) -> Tensor:
        """Return pre-logits embeddings (N, D) of one pass."""
        features = self.net.forward_features(self._normalise(images))  # type: ignore[operator]
        return self.net.forward_head(features, pre_logits=True)  # type: ignore[operator, no-any-return]

    def classify(self, embeddings: Tensor) -> Tensor:
        """Return the logits (N, C) of pre-logits embeddings (N, D)."""
        return self.net.get_classifier()(embeddings)  # type: ignore[operator, no-any-return]

    @property
    def device(self) -> torch.device:
        """Return the device of the network."""
        return self.mean.device

    def _normalise(self, images: Tensor) -> Tensor:
        channels_last = next(self.net.parameters()).is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        scaled = images.to(self.mean.dtype, memory_format=layout, copy=True)  # a copy, to be changed in place
        return scaled.div_(255).sub_(self.mean).div_(self.std)


@contextmanager
def limit_size(state: Mapping[str, Tensor]) -> Iterator[None]:
    """Raise ValueError when a network under construction grows far beyond the size of its weights."""
    room = {
        "modules": _MODULES_PER_TENSOR * (len(state) + 100),
        "tensors": _MAX_COPIES * (len(state) + 100),
        "bytes": _MAX_COPIES * (sum(tensor.nbytes for tensor in state.values()) + _SPARE_BYTES),
    }

    def take(**parts: int) -> None:
        for name, count in parts.items():
            room[name] -= count
            if room[name] < 0:
                raise _TooLargeError

    def tensor(module: nn.Module, name: str, made: Tensor | None) -> None:
        if made is not None:
            take(tensors=1, bytes=made.nbytes)

    try:
        with (
            hooks.register_module_module_registration_hook(lambda module, name, made: take(modules=1)),
            hooks.register_module_parameter_registration_hook(tensor),
            hooks.register_module_buffer_registration_hook(tensor),
        ):
            yield
    except _TooLargeError as error:
        raise ValueError("the network is far larger than its weights") from error


def _refuse_incompatible(state: Any, backbone: str, classes: int, options: Mapping[str, Any]) -> None:
    """Raise ValueError if a state dict does not fit a network or is not finite, ConfigError for an unknown network."""
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError("it has none")
    with torch.device("meta"), limit_size(state):
        own_state = create_backbone(backbone, classes, options=options).state_dict()
    expected = {f"net.{name}": (tensor.shape, tensor.dtype) for name, tensor in own_state.items()}
    if odd := sorted(map(str, expected.keys() ^ state.keys())):
        raise ValueError(f"{len(odd)} are missing or unexpected, first {odd[0][:80]}")
    for name, tensor in state.items():
        if (tensor.shape, tensor.dtype) != expected[name]:
            raise ValueError(f"{name} has another shape or type")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} contains a non-finite value")


class _TooLargeError(BaseException):
    """An error in a network that outgrows its weights; a BaseException, because constructors may catch Exception."""
