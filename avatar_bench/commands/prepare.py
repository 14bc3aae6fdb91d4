"""prepare: build a data set from its sources."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from avatar_bench.config import PrepareConfig
from avatar_bench.data.sources import build, demo_root
from avatar_bench.errors import ConfigError


def prepare(cfg: DictConfig) -> None:
    """Build the data set that `data` or `source` describes in `out`, and say in one line what it holds.

    Raises ConfigError where the recipe or the place is not given, and as `build` does.
    """
    settings = OmegaConf.to_object(cfg)
    assert isinstance(settings, PrepareConfig)
    sources, blind = settings.data.get("sources") or {}, settings.data.get("blind_sources") or []
    if settings.source:  # those that are named, and no others; none of them is kept out
        if settings.out is None:
            raise ConfigError("out: where should it go?", "for example: avatar-bench prepare source=tabler out=DIR")
        sources, blind = settings.source, []
    out = Path(settings.out or settings.data.get("root") or demo_root()).expanduser()
    print(build(sources, out, blind, update=settings.update))
