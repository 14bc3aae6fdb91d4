"""Filters for warnings of Lightning and torch that users cannot act on."""

from __future__ import annotations

import logging
import warnings


def suppress_framework_warnings() -> None:
    """Suppress Lightning's advertisements and its hints about intentional settings."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for text in (
        ".*does not have many workers.*",
        ".*persistent_workers=True.*",  # validation is short
        ".*srun.*",
        ".*exists and is not empty.*",  # the run folder exists on purpose
        ".*number of training batches.*",
        ".*litlogger.*",
        ".*This DataLoader will create.*",  # the number of workers is the user's choice
        ".*in eval mode at the start of training.*",  # frozen layers, on purpose
        ".*isinstance\\(treespec, LeafSpec\\).*",  # a deprecation of torch within Lightning
        ".*Starting from v1.9.0.*",
        ".*checkpoint that ended before the epoch ended.*",  # EpochSampler resumes within the epoch
        ".*lr_scheduler.step.*",  # mixed precision may skip the first step
    ):
        warnings.filterwarnings("ignore", text)
