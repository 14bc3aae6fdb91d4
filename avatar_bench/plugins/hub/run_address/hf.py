"""hf:OWNER/NAME: a run that push has shared on the Hugging Face hub."""

from avatar_bench.plugins.hub.hub_repository import fetch_run

__all__ = ["fetch_run"]
