"""The classifier: a timm network with its label contract, trained by Lightning."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score
from torchvision.transforms.v2 import MixUp  # type: ignore[attr-defined]  # it lacks a marker of what it exports

from avatar_bench.errors import CheckpointError, ConfigError, DivergedError
from avatar_bench.models.checkpoints import CARD_KEY as CARD_KEY
from avatar_bench.models.checkpoints import read_checkpoint
from avatar_bench.models.finetuning import Stage, freeze, rest_frozen_modules
from avatar_bench.models.misfits import refuse_misfit
from avatar_bench.models.schema import fault_of_card
from avatar_bench.models.weights import create_backbone

LOSS_KEY = "train_loss"
SCHEMA = 1
OPTIMIZERS = ("adamw", "adam", "sgd")


@dataclass(frozen=True)
class Card:
    """What a checkpoint says of itself, in plain types: the label contract and where it comes from.

    `classes` are in the order of the network's outputs; `preprocessing` is the evaluation transform;
    `temperature` divides the logits (1 until it is fitted).
    """

    classes: tuple[str, ...]
    backbone: str
    preprocessing: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    weights: str = "none"
    mode: str = ""
    stage: int = 1
    seed: int = 0
    split_fingerprint: str = ""
    data_fingerprint: str = ""
    temperature: float = 1.0
    versions: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    @classmethod
    def from_checkpoint(cls, checkpoint: Any, file: Path) -> Card:
        """Read and check the card of a loaded checkpoint; raise CheckpointError where it is not one of ours."""
        card = checkpoint.get(CARD_KEY) if isinstance(checkpoint, dict) else None
        known = {item.name for item in fields(cls)}
        if not isinstance(card, dict) or not {"classes", "backbone", "preprocessing"} <= card.keys() <= known:
            raise CheckpointError(
                f"{file} is not a checkpoint of avatar_bench: it does not say its classes and preprocessing.",
                "Expected checkpoints/best.ckpt or last.ckpt of a run folder.",
            )
        if card.get("schema") != SCHEMA:
            raise CheckpointError(
                f"{file} has schema {ascii(card.get('schema'))[:20]}; this version reads schema {SCHEMA}."
            )
        if fault := fault_of_card(card):
            raise CheckpointError(f"{file}: {fault}.", "It is damaged, or was made by hand.")
        return cls(**{**card, "classes": tuple(card["classes"])})

    def plain(self) -> dict[str, Any]:
        """Give the card as types that a weights-only load accepts."""
        return {**asdict(self), "classes": list(self.classes)}


@dataclass(frozen=True)
class TrainingOptions:
    """How to train: optimizer, schedule and regularisation, as in conf/optimizer."""

    seed: int
    optimizer: str = "adamw"
    weight_decay: float = 0.01
    momentum: float = 0.9
    schedule: str = "none"
    warmup_epochs: int = 0
    factor: float = 0.5
    patience: int = 1
    label_smoothing: float = 0.0
    mixup: float = 0.0
    class_weights: Sequence[float] | None = None


class Classifier(pl.LightningModule):
    """Map uint8 images (N, 3, S, S) to logits (N, C) and embeddings (N, D), in the card's class order."""

    mean: Tensor
    std: Tensor
    class_weights: Tensor | None

    def __init__(self, card: Card, net: nn.Module, options: TrainingOptions | None = None) -> None:
        super().__init__()
        self.card = card
        self.net = net
        self.options = options
        self.stage = Stage("all", 1, 0.0)
        # not part of the state: the card holds them
        self.register_buffer("mean", _channels(card.preprocessing["mean"]), persistent=False)
        self.register_buffer("std", _channels(card.preprocessing["std"]), persistent=False)
        weights = torch.tensor(options.class_weights) if options and options.class_weights else None
        self.register_buffer("class_weights", weights, persistent=False)
        count = len(card.classes)
        metrics = {
            "accuracy": MulticlassAccuracy(count, average="micro"),
            "macro_f1": MulticlassF1Score(count, average="macro"),
        }
        self.val_metrics = MetricCollection(dict(metrics), prefix="val/")  # type: ignore[arg-type]
        self.train_loss = MeanMetric()  # over an epoch's images; a checkpoint from within the epoch holds its state

    @classmethod
    def load(cls, file: Path) -> Classifier:
        """Rebuild the classifier of a checkpoint on the CPU, in eval mode; never unpickles objects.

        Its network is built only once names and sizes are known to fit. Raises CheckpointError.
        """
        checkpoint = read_checkpoint(file)
        card = Card.from_checkpoint(checkpoint, file)
        state = checkpoint.get("state_dict")
        try:
            refuse_misfit(state, card.backbone, len(card.classes), card.options)
            net = create_backbone(card.backbone, len(card.classes), options=card.options)
        except ConfigError as error:
            raise CheckpointError(f"{file}: its network cannot be built.", *error.lines[:1]) from error
        except ValueError as error:
            raise CheckpointError(
                f"{file}: its weights do not fit its own network, {card.backbone}: {error}."
            ) from error
        classifier = cls(card, net)
        classifier.load_state_dict(checkpoint["state_dict"])
        return classifier.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Give logits and pre-logits embeddings by one pass."""
        features = self.net.forward_features(self._normalise(images))  # type: ignore[operator]
        embeddings = self.net.forward_head(features, pre_logits=True)  # type: ignore[operator]
        return self._head(embeddings), embeddings

    @property
    def learns_from_embeddings(self) -> bool:
        """Tell whether a stage's loss depends on the embeddings alone: the classifier learns, and nothing else acts.

        Mixup mixes images, and dropout before the classifier would be left out.
        """
        drops = getattr(self.net, "drop_rate", 0.0) or 0.0
        return self.stage.unfreeze == "classifier" and self._options.mixup == 0 and drops == 0

    def begin(self, stage: Stage) -> list[str]:
        """Freeze all but the layers of `stage`; give the names of the parameters that learn."""
        self.stage = stage
        return freeze(self.net, stage.unfreeze)

    def train(self, mode: bool = True) -> Classifier:
        super().train(mode)
        if mode:
            rest_frozen_modules(self.net)
        return self

    def on_train_epoch_start(self) -> None:
        self.train_loss.reset()
        self.train()  # Lightning keeps the modes that it finds, and validation leaves eval behind

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # dropout and mixup depend on (seed, step) alone: not on workers, nor on what ran before
        torch.manual_seed(self._options.seed * 1_000_003 + self.global_step)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        logits, targets = self._learn_from(batch)
        loss = functional.cross_entropy(
            logits, targets, weight=self.class_weights, label_smoothing=self._options.label_smoothing
        )
        self._check_finite(loss, batch)
        self.train_loss.update(loss.detach(), len(logits))
        self.log("train/loss_step", loss, batch_size=len(logits))
        self.log("train/loss_epoch", self.train_loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        logits = self._head(batch["embedding"]) if "embedding" in batch else self(batch["image"])[0]
        loss = functional.cross_entropy(logits, batch["target"])
        self._check_finite(loss, batch)  # before the checkpoints of this epoch are written
        self.log("val/loss", loss, batch_size=len(logits), sync_dist=True)
        self.val_metrics.update(logits, batch["target"])
        self.log_dict(dict(self.val_metrics.items()), batch_size=len(logits))

    def configure_optimizers(self) -> Any:
        options, stage = self._options, self.stage
        learning = [parameter for parameter in self.net.parameters() if parameter.requires_grad]
        optimizer = _optimizer(learning, options, stage.lr)
        if options.schedule == "plateau":
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
                optimizer, factor=options.factor, patience=options.patience
            )
            never = sys.maxsize  # Lightning steps it after the epoch's checkpoint, which would lack that step
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": plateau, "monitor": "val/loss", "frequency": never},
            }
        if options.schedule == "cosine":
            steps = int(self.trainer.estimated_stepping_batches)
            schedule = _cosine(optimizer, steps, steps * options.warmup_epochs // max(1, stage.epochs))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
        return optimizer

    def on_validation_end(self) -> None:
        if self._options.schedule == "plateau":
            self.lr_schedulers().step(self.trainer.callback_metrics["val/loss"])  # type: ignore[union-attr, arg-type]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for name, value in checkpoint["state_dict"].items():
            if not torch.isfinite(value).all():
                raise _diverged(f"{name} of the network is", self.global_step, self.current_epoch)
        checkpoint[CARD_KEY] = self.card.plain()
        checkpoint[LOSS_KEY] = [float(self.train_loss.mean_value), float(self.train_loss.weight)]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        value, weight = checkpoint.get(LOSS_KEY, (0.0, 0.0))
        self.train_loss.mean_value.fill_(value)
        self.train_loss.weight.fill_(weight)

    def _head(self, embeddings: Tensor) -> Tensor:
        return self.net.get_classifier()(embeddings)  # type: ignore[operator, no-any-return]

    def _learn_from(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Give logits (N, C) and targets, (N,) or mixed (N, C), of a batch of images or of their embeddings."""
        if "embedding" in batch:
            return self._head(batch["embedding"]), batch["target"]
        images, targets = self._normalise(batch["image"]), batch["target"]
        if self._options.mixup > 0:
            mix = MixUp(alpha=self._options.mixup, num_classes=len(self.card.classes))
            images, targets = mix(images, targets)
        return self.net(images), targets

    def _check_finite(self, loss: Tensor, batch: dict[str, Tensor]) -> None:
        if not torch.isfinite(loss):
            error = _diverged("The loss is", self.global_step, self.current_epoch)
            error.rows, error.split = batch["row"].tolist(), "val" if self.trainer.validating else "train"
            raise error

    def _normalise(self, images: Tensor) -> Tensor:
        scaled = (images.to(self.mean.dtype) / 255 - self.mean) / self.std
        channels_last = next(self.net.parameters()).is_contiguous(memory_format=torch.channels_last)
        return scaled.contiguous(memory_format=torch.channels_last) if channels_last else scaled

    @property
    def _options(self) -> TrainingOptions:
        assert self.options is not None, "a loaded classifier is for inference; train builds its own"
        return self.options


def _diverged(what: str, step: int, epoch: int) -> DivergedError:
    return DivergedError(
        f"{what} not a finite number at step {step} (epoch {epoch + 1}).",
        "The best and last checkpoints before it are kept. Train with a smaller lr, or trainer.precision=32.",
    )


def _channels(values: Sequence[float]) -> Tensor:
    return torch.tensor([float(value) for value in values]).view(3, 1, 1)


def _optimizer(parameters: list[nn.Parameter], options: TrainingOptions, lr: float) -> torch.optim.Optimizer:
    if options.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, lr, momentum=options.momentum, nesterov=options.momentum > 0, weight_decay=options.weight_decay
        )
    kind = torch.optim.Adam if options.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, lr=lr, weight_decay=options.weight_decay)


def _cosine(optimizer: torch.optim.Optimizer, steps: int, warmup: int) -> torch.optim.lr_scheduler.LambdaLR:
    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
