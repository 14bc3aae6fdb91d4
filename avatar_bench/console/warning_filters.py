"""Silence: the hints of Lightning and torch that no user of ours needs."""

from __future__ import annotations

import logging
import warnings


def suppress_framework_warnings() -> None:
    """Silence Lightning's hints about its other products and about settings that are on purpose."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for text in (
        ".*does not have many workers.*",
        ".*persistent_workers=True.*",  # val is short
        ".*srun.*",
        ".*exists and is not empty.*",  # the run folder is ours
        ".*number of training batches.*",
        ".*litlogger.*",
        ".*This DataLoader will create.*",  # the number of workers is the user's choice
        ".*in eval mode at the start of training.*",  # frozen layers are, on purpose
        ".*isinstance\\(treespec, LeafSpec\\).*",  # torch's own deprecation inside Lightning
        ".*Starting from v1.9.0.*",
        ".*checkpoint that ended before the epoch ended.*",  # EpochSampler begins where it ended
        ".*lr_scheduler.step.*",  # the first step under mixed precision may be skipped
    ):
        warnings.filterwarnings("ignore", text)
