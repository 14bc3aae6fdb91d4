"""Self-supervised pretraining with Lightning, monitored by a k-nearest-neighbour probe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import MeanMetric

from avatar_bench.console.progress import track
from avatar_bench.console.terminal import print_note
from avatar_bench.data.transforms import Preprocessing
from avatar_bench.metrics.neighbours import predict_by_knn
from avatar_bench.metrics.stats import proportion_interval
from avatar_bench.plugins.pretrain.methods import DINO, Method
from avatar_bench.training.module import TrainableModule
from avatar_bench.training.optimization import TrainingOptions, build_head_groups, build_parameter_groups
from avatar_bench.training.trainer import write_history

KNN_ACCURACY = "probe/knn_accuracy"
PROBE_COLUMNS = (KNN_ACCURACY, "probe/knn_low", "probe/knn_high", "probe/n")
PRETRAINING_COLUMNS = ("epoch", "train/loss", *PROBE_COLUMNS, "lr")


class Pretrainer(TrainableModule):
    """LightningModule of a self-supervised method; maps uint8 images (N, 3, S, S) to embeddings (N, D)."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, method: Method, preprocessing: Preprocessing, options: TrainingOptions, lr: float, epochs: int
    ) -> None:
        super().__init__()
        self.method, self.options, self.lr, self.epochs = method, options, lr, epochs
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(3, 1, 1), persistent=False)
        self.train_loss = MeanMetric()  # over an epoch's images; a checkpoint within the epoch stores its state
        self.train_loss.persistent(True)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the backbone's embeddings of uint8 images."""
        embeddings: Tensor = self.method.backbone(self._normalise(images))
        return embeddings

    def on_train_epoch_start(self) -> None:
        self.train_loss.reset()
        self.train()  # the probe leaves the module in eval mode

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.seed_noise(batch_idx)
        # before the step, so that a checkpoint ends with the step
        if isinstance(self.method, DINO) and batch_idx % self.trainer.accumulate_grad_batches == 0:
            self.method.update_teacher(self.global_step / max(1, int(self.trainer.estimated_stepping_batches)))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        loss: Tensor = self.method([self._normalise(view) for view in batch["views"]])
        self.refuse_divergence(loss, batch, "train")
        count = len(batch["row"])
        self.train_loss.update(loss.detach(), count)
        self.log("train/loss_step", loss, batch_size=count)
        self.log("train/loss_epoch", self.train_loss, on_step=False, on_epoch=True)
        return loss

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        if isinstance(self.method, DINO):
            self.method.head.cancel_last_layer_gradients(self.current_epoch)

    def configure_optimizers(self) -> Any:
        student = self.method.student if isinstance(self.method, DINO) else self.method.backbone
        inside = set(student.parameters())
        heads = [weight for weight in self.parameters() if weight.requires_grad and weight not in inside]
        groups = build_parameter_groups(student, self.options, self.lr) + build_head_groups(heads, self.options)
        return self.build_optimizer(groups, self.lr, self.epochs)

    def on_train_epoch_end(self) -> None:
        schedule = self.lr_schedulers()
        if isinstance(schedule, ReduceLROnPlateau):  # there is no loss on val
            schedule.step(self.trainer.callback_metrics["train/loss_epoch"])  # type: ignore[arg-type]

    def _normalise(self, images: Tensor) -> Tensor:
        return images.to(self.mean.dtype, copy=True).div_(255).sub_(self.mean).div_(self.std)


@dataclass(frozen=True)
class KnnProbe:
    """Evaluation of embeddings by k nearest neighbours: val images classified by the labels of train images.

    `train_batches` and `val_batches` yield the images of train and val, in the order of `labels` (M,) and `targets`
    (N,). Labels are used only here, never in pretraining. The probe runs every `every` epochs with `k` neighbours.
    """

    train_batches: Any
    val_batches: Any
    labels: NDArray[np.str_]
    targets: NDArray[np.str_]
    groups: NDArray[np.str_]
    every: int
    k: int

    def __call__(self, module: Pretrainer) -> dict[str, float]:
        """Compute the accuracy with its interval and n; raise DivergedError if an embedding is not finite."""
        train, val = (_embed(module, batches) for batches in (self.train_batches, self.val_batches))
        correct = predict_by_knn(train, self.labels, val, self.k) == self.targets
        low, high, _, _ = proportion_interval(correct, self.groups)
        return dict(zip(PROBE_COLUMNS, (float(correct.mean()), low, high, len(correct)), strict=True))


class PretrainingHistory(Callback):
    """Writer of metrics.csv: one row before training (epoch 0, probe only) and one per epoch."""

    def __init__(self, folder: Path, probe: KnnProbe | None, show: bool) -> None:
        self.file, self.probe, self.show = folder / "metrics.csv", probe, show
        self.lr = float("nan")

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Probe the network before training."""
        if self.probe is not None and trainer.global_step == 0:
            self._write(0, self.probe(pl_module))

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Record the learning rate before the schedule changes it."""
        self.lr = max(group["lr"] for group in trainer.optimizers[0].param_groups)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Write this epoch's row, replacing any left by an interrupted attempt."""
        epoch = trainer.current_epoch + 1
        loss = float(trainer.callback_metrics.get("train/loss_epoch", float("nan")))
        row = {"train/loss": loss, "lr": self.lr}
        if self.probe is not None and (epoch % self.probe.every == 0 or epoch == trainer.max_epochs):
            row |= self.probe(pl_module)
        self._write(epoch, row)

    def _write(self, epoch: int, row: dict[str, float]) -> None:
        kinds = dict.fromkeys(PRETRAINING_COLUMNS, float) | {"epoch": int, "probe/n": "Int64"}
        write_history(self.file, {"epoch": epoch, **row}, kinds)
        if self.show:
            values = "  ".join(f"{name} {row[name]:.4f}" for name in ("train/loss", KNN_ACCURACY) if name in row)
            print_note(f"epoch {epoch}  {values}")


@torch.inference_mode()
def _embed(module: Pretrainer, batches: Any) -> NDArray[np.float32]:
    module.eval()
    tracked = track(batches, "probe", unit="batch")
    embeddings = np.concatenate([module(batch["image"].to(module.device)).float().cpu().numpy() for batch in tracked])
    if not np.isfinite(embeddings).all():
        raise module.make_divergence_error("An embedding is")
    return embeddings
