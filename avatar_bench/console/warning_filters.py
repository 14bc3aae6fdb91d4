"""Filters for warnings of libraries that users cannot act on."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def keep_filters() -> Iterator[None]:
    """Restore the filters of warnings and the levels of loggers afterwards; inside the `with`, those of commands apply.

    Those set when a module of ours is imported would otherwise be missing from the second `with` on.
    """
    known = [logger for logger in logging.root.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    levels = [(logger, logger.level) for logger in known]
    with warnings.catch_warnings():
        suppress_image_warnings()
        suppress_framework_warnings()
        try:
            yield
        finally:
            for logger, level in levels:
                logger.setLevel(level)


def suppress_image_warnings() -> None:
    """Suppress what Pillow says of images that can be decoded nevertheless."""
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)


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
