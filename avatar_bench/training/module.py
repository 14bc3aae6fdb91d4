"""LightningModule that trains a classifier stage by stage."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import get_total_norm
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassF1Score
from torchvision.transforms.v2 import (  # type: ignore[attr-defined]  # it does not declare its exports
    CutMix,
    MixUp,
    RandomChoice,
)

from avatar_bench.config.instantiate import build
from avatar_bench.errors import DivergedError
from avatar_bench.metrics.classification import accuracy, macro_f1
from avatar_bench.models.checkpoint import CARD_KEY
from avatar_bench.models.classifier import Classifier
from avatar_bench.models.model_card import Card
from avatar_bench.models.stages import Stage, freeze, set_frozen_to_eval
from avatar_bench.training import optimization
from avatar_bench.training.optimization import TrainingOptions


class TrainableModule(pl.LightningModule):
    """LightningModule with reproducible randomness and a check for weights that are not finite."""

    options: TrainingOptions

    def build_optimizer(self, groups: list[dict[str, Any]], lr: float, epochs: int) -> Any:
        """Build the optimizer and its schedule over a number of epochs, in Lightning's form."""
        options, trainer = self.options, self._trainer
        # on a CPU, the unfused loop takes ten times as long; on a GPU, Lightning does not clip for fused optimizers,
        # nor in 16 bits
        fused = trainer is None or not trainer.gradient_clip_val or trainer.precision == "32-true"
        fused = fused and all(parameter.device.type == "cpu" for group in groups for parameter in group["params"])
        optimizer = optimization.build_optimizer(groups, options, lr, fused)
        if not options.schedule:
            return optimizer
        steps = int(trainer.estimated_stepping_batches) if trainer else 0
        schedule = build("schedule", options.schedule, LRScheduler, optimizer, steps=steps, epochs=epochs)
        form: dict[str, Any] = {"scheduler": schedule, "interval": "step"}
        if isinstance(schedule, ReduceLROnPlateau):
            never = sys.maxsize  # Lightning would step it after the epoch's checkpoint, which would lack that step
            form = {"scheduler": schedule, "monitor": "val/loss", "frequency": never}
        return {"optimizer": optimizer, "lr_scheduler": form}

    def seed_noise(self, batch: int) -> None:
        """Seed dropout, mixup, CutMix and masks from (seed, step, `batch` in the step or epoch), not the history."""
        accumulated = self.trainer.accumulate_grad_batches
        step = self.options.seed * 1_000_003 + self.global_step * accumulated + batch % accumulated
        torch.manual_seed(step + (self.global_rank << 52))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raise DivergedError if a weight is not finite, so that earlier checkpoints are not overwritten."""
        for name, value in checkpoint["state_dict"].items():
            if not torch.isfinite(value).all():
                raise self.make_divergence_error(f"{name} of the network is")

    def refuse_divergence(self, loss: Tensor, batch: dict[str, Any], split: str) -> None:
        """Raise DivergedError, with the rows of the batch, if its loss is not finite."""
        if not torch.isfinite(loss):
            error = self.make_divergence_error("The loss is")
            error.rows, error.split = batch["row"].tolist(), split
            raise error

    def make_divergence_error(self, what: str) -> DivergedError:
        """Build the error for a value that is not finite; `what` names it with a verb, such as "The loss is"."""
        return DivergedError(
            f"{what} not a finite number at step {self.global_step} (epoch {self.current_epoch + 1}).",
            "Earlier checkpoints are kept. Use a smaller lr, or trainer.precision=32.",
        )


LOSS_KEY, CONFUSION_KEY = "train_loss", "train_confusion"


class Learner(Classifier, TrainableModule):
    """LightningModule of a classifier, trained one stage at a time."""

    class_weights: Tensor | None

    def __init__(self, card: Card, net: nn.Module, options: TrainingOptions) -> None:
        super().__init__(card, net)
        self.options = options
        self.stage = Stage("all", 1, 0.0)
        self.step_batches: list[Any] = []  # the batches of a step, for its second pass
        self.second_pass = False
        weights = torch.tensor(options.class_weights) if options.class_weights else None
        self.register_buffer("class_weights", weights, persistent=False)
        count = len(card.classes)
        metrics = {
            "accuracy": MulticlassAccuracy(count, average="micro"),
            "macro_f1": MulticlassF1Score(count, average="macro"),
        }
        self.val_metrics = MetricCollection(dict(metrics), prefix="val/")  # type: ignore[arg-type]
        # on an epoch's images as trained on (augmented); a checkpoint within the epoch stores their state
        self.train_loss = MeanMetric()
        self.train_confusion = MulticlassConfusionMatrix(count, validate_args=False)  # the checks slow small networks

    @property
    def is_trained_on_embeddings(self) -> bool:
        """Return whether the stage can train on cached embeddings: by the classifier alone, not mixed or dropped."""
        drops = [rate for name, rate in self.card.options.items() if name.endswith("drop_rate")]
        drops.append(getattr(self.net, "drop_rate", 0.0))
        return self.stage.unfreeze == "classifier" and not self._mixes and not any(drops)

    @property
    def _mixes(self) -> list[nn.Module]:
        kinds = ((MixUp, self.options.mixup), (CutMix, self.options.cutmix))
        return [kind(alpha=alpha, num_classes=len(self.card.classes)) for kind, alpha in kinds if alpha > 0]

    @property
    def embedding_bytes(self) -> int:
        """Return the memory of one image's embedding, in bytes."""
        return 4 * int(self.net.get_classifier().in_features)  # type: ignore[operator, arg-type]

    @property
    def passes_per_step(self) -> int:
        """Return the number of forward and backward passes per optimizer step: 2 with SAM, else 1."""
        return 1 if self.options.rho is None else 2

    def begin(self, stage: Stage) -> list[str]:
        """Freeze all layers but those of `stage`; return the names of the trained parameters."""
        self.stage = stage
        return freeze(self.net, stage.unfreeze)

    def train(self, mode: bool = True) -> Learner:
        super().train(mode)
        if mode:
            set_frozen_to_eval(self.net)
        return self

    def on_train_epoch_start(self) -> None:
        self.train_loss.reset()
        self.train_confusion.reset()
        self.train()  # Lightning restores the modes it found, and validation leaves them in eval

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.seed_noise(batch_idx)
        if self.passes_per_step > 1:
            self.step_batches.append(batch)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        logits, targets = self._learn_from(batch)
        loss = functional.cross_entropy(
            logits, targets, weight=self.class_weights, label_smoothing=self.options.label_smoothing
        )
        self.refuse_divergence(loss, batch, "train")
        if not self.second_pass:  # the loss of the second pass is that of perturbed weights
            self.train_loss.update(loss.detach(), len(logits))
            self.train_confusion.update(logits.detach(), targets if targets.ndim == 1 else targets.argmax(dim=1))
            self.log("train/loss_step", loss, batch_size=len(logits))
            self.log("train/loss_epoch", self.train_loss, on_step=False, on_epoch=True)
        is_alone = self._trainer is None or self._trainer.world_size == 1
        return loss if is_alone else loss * self._compute_share(targets)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        if self.passes_per_step > 1:
            optimizer_closure = partial(self._pass_twice, optimizer, optimizer_closure)
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        logits = self.classify(batch["embedding"]) if "embedding" in batch else self(batch["image"])[0]
        loss = functional.cross_entropy(logits, batch["target"])
        self.refuse_divergence(loss, batch, "val")  # must come before this epoch's checkpoints are written
        self.log("val/loss", loss, batch_size=len(logits), sync_dist=True)
        self.val_metrics.update(logits, batch["target"])
        self.log_dict(dict(self.val_metrics.items()), batch_size=len(logits))

    def on_validation_epoch_end(self) -> None:
        """Log the epoch's train metrics here: on_train_epoch_end is too late for the callback that writes them."""
        confusion = self.train_confusion.compute().cpu().numpy()
        values = {"train/accuracy": float(accuracy(confusion)), "train/macro_f1": float(macro_f1(confusion))}
        self.log_dict(values, sync_dist=True)

    def configure_optimizers(self) -> Any:
        stage = self.stage
        groups = optimization.build_parameter_groups(self.net, self.options, stage.lr)
        return self.build_optimizer(groups, stage.lr, stage.epochs)

    def on_validation_end(self) -> None:
        schedule = self.lr_schedulers()
        if isinstance(schedule, ReduceLROnPlateau):
            schedule.step(self.trainer.callback_metrics["val/loss"])  # type: ignore[arg-type]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint[CARD_KEY] = self.card.plain()
        with self.train_loss.sync_context(), self.train_confusion.sync_context():  # of all processes
            checkpoint[LOSS_KEY] = [float(self.train_loss.mean_value), float(self.train_loss.weight)]
            checkpoint[CONFUSION_KEY] = self.train_confusion.confmat.tolist()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.train_loss.reset()  # processes share the tensors that they were given
        self.train_confusion.reset()
        if self.global_rank:  # the first process takes over what all have counted
            return
        value, weight = checkpoint.get(LOSS_KEY, (0.0, 0.0))
        self.train_loss.mean_value.fill_(value)
        self.train_loss.weight.fill_(weight)
        if CONFUSION_KEY in checkpoint:
            self.train_confusion.confmat.copy_(torch.tensor(checkpoint[CONFUSION_KEY]))

    def _pass_twice(self, optimizer: torch.optim.Optimizer, first: Callable[[], Any]) -> Any:
        """Compute the gradients of sharpness-aware minimisation (SAM); return the loss of the first pass, `first()`.

        The second pass repeats the same batches with the same noise, at weights perturbed along the gradients of the
        first pass. Only their direction counts, so a GradScaler's factor has no effect.
        """
        options, loss, batches = self.options, first(), self.step_batches
        assert options.rho is not None
        self.step_batches = []
        gradients = [parameter.grad for parameter in self.net.parameters() if parameter.grad is not None]
        if not torch.isfinite(get_total_norm(gradients)):
            return loss  # a GradScaler skips the step; without one, the next loss is not finite and raises
        perturbed = optimization.perturb_weights(optimizer, options.rho, options.adaptive)
        with perturbed, optimization.freeze_statistics(self.net):
            self.second_pass = True
            for index, batch in enumerate(batches):
                self.seed_noise(index)
                perturbed_loss: Any = self.trainer.strategy.training_step(batch, 0)
                self.trainer.strategy.backward(perturbed_loss / self.trainer.accumulate_grad_batches, optimizer)
            self.second_pass = False
        return loss

    def _compute_share(self, targets: Tensor) -> Tensor:
        """Return the weight of this process's images relative to an equal part, as gradients are averaged."""
        weights = torch.ones(len(self.card.classes), device=self.device)
        weights = weights if self.class_weights is None else self.class_weights
        part = weights[targets].sum() if targets.ndim == 1 else (targets * weights).sum()
        return part / self.trainer.strategy.reduce(part.clone(), reduce_op="mean")

    def _learn_from(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return logits (N, C) and targets, (N,) or mixed (N, C), of a batch of images or of their embeddings."""
        if "embedding" in batch:
            return self.classify(batch["embedding"]), batch["target"]
        images, targets = self._normalise(batch["image"]), batch["target"]
        if mixes := self._mixes:
            images, targets = (mixes[0] if len(mixes) == 1 else RandomChoice(mixes))(images, targets)
        return self.net(images), targets
