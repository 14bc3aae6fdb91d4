"""Commands called from Python: keyword arguments as options, exceptions as errors, and a process left as it was."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from avatar_bench.cli.app import run_command
from avatar_bench.config import entries, overrides
from avatar_bench.config.error_messages import find_user_error
from avatar_bench.console.warning_filters import keep_filters
from avatar_bench.errors import ConfigError, DataError


def call_command(
    command: str, options: Mapping[str, Any], paths: Sequence[str | os.PathLike[str] | Sequence[Any]] = ()
) -> Any:
    """Run a command and return what it returned, of a sweep the folders of its jobs; `paths` are of its main option.

    Raise AvatarBenchError, with the message of the command line, for what a user can cause; DataError if a job of a
    sweep has not finished. One call at a time may run in a process.
    """
    from avatar_bench.config.path_quoting import find_main_option, make_words

    try:
        with keep_process_state():
            main = find_main_option(command)
            if paths and main is not None:
                if main in options:
                    raise ConfigError(f"{main} is given twice: as {main}= and as the first argument.", "Remove one.")
                _check_paths(main, paths)
                options = {main: paths[0] if len(paths) == 1 else paths, **options}
            words = make_words(command, options)
            with entries.use_folders(overrides.find_config_folders(words)):
                code, value = run_command(command, words)
    except Exception as error:
        known = find_user_error(error)
        if known is None or known is error:
            raise
        raise known from error
    if code:
        raise DataError("Some jobs of the sweep have not finished: see the table above, or jobs.csv in its folder.")
    return value


def _check_paths(main: str, paths: Iterable[Any]) -> None:
    """Raise ConfigError for a value that is no path, such as an image in memory."""
    for value in paths:
        several = value if isinstance(value, Iterable) and not isinstance(value, str) else [value]
        if not all(isinstance(path, str | os.PathLike) for path in several):
            what = f"{main}: expected the path of a file or folder, got {type(value).__name__}."
            raise ConfigError(what, "Save an image in memory to a file first.")


@contextmanager
def keep_process_state() -> Iterator[None]:
    """Restore what a command changes in the process: Hydra, warnings, logging and the threads of torch."""
    import torch

    from avatar_bench.config.composition import keep_hydra_state

    threads = torch.get_num_threads()
    with keep_hydra_state(), keep_filters():
        try:
            yield
        finally:
            torch.set_num_threads(threads)
