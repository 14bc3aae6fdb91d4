"""Package of users' entries: user_entries.block.mine is DIR/block/mine, so that other processes find it."""

from avatar_bench.config.entries import find_user_folders

__path__ = [str(folder) for folder in find_user_folders()]
