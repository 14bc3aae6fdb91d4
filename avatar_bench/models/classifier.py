"""A network with its label contract."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from avatar_bench.errors import CheckpointError, ConfigError
from avatar_bench.models.backbones import create_backbone
from avatar_bench.models.checkpoint import read_checkpoint
from avatar_bench.models.incompatible_weights import refuse_incompatible
from avatar_bench.models.model_card import Card


class Classifier(nn.Module):
    """A network that maps uint8 images (N, 3, S, S) to logits (N, C), in card order, and embeddings (N, D)."""

    mean: Tensor
    std: Tensor

    def __init__(self, card: Card, net: nn.Module) -> None:
        super().__init__()
        self.card = card
        self.net = net
        # not part of the state dict: the card has them
        self.register_buffer("mean", _to_channels(card.preprocessing["mean"]), persistent=False)
        self.register_buffer("std", _to_channels(card.preprocessing["std"]), persistent=False)

    @staticmethod
    def load(file: Path) -> Classifier:
        """Load the classifier of a checkpoint on the CPU, in eval mode, without unpickling objects.

        Builds the network only after names and sizes have been checked. Raises CheckpointError.
        """
        checkpoint = read_checkpoint(file)
        card = Card.from_checkpoint(checkpoint, file)
        state = checkpoint.get("state_dict")
        try:
            refuse_incompatible(state, card.backbone, len(card.classes), card.options)
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
        features = self.net.forward_features(self._normalise(images))  # type: ignore[operator]
        embeddings = self.net.forward_head(features, pre_logits=True)  # type: ignore[operator]
        return self._head(embeddings), embeddings

    @property
    def device(self) -> torch.device:
        """Return the device of the network."""
        return self.mean.device

    def _head(self, embeddings: Tensor) -> Tensor:
        return self.net.get_classifier()(embeddings)  # type: ignore[operator, no-any-return]

    def _normalise(self, images: Tensor) -> Tensor:
        channels_last = next(self.net.parameters()).is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        scaled = images.to(self.mean.dtype, memory_format=layout, copy=True)  # a copy, to be changed in place
        return scaled.div_(255).sub_(self.mean).div_(self.std)


def _to_channels(values: Sequence[float]) -> Tensor:
    return torch.tensor([float(value) for value in values]).view(3, 1, 1)
