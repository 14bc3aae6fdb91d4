"""Entry point of the command line: a command, its Hydra overrides, error messages and exit codes."""

from __future__ import annotations

import argparse
import atexit
import gc
import logging
import os
import re
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from avatar_bench import __version__
from avatar_bench.config import catalogue, entries, overrides
from avatar_bench.config.error_messages import explain
from avatar_bench.console.signals import use_handlers
from avatar_bench.console.terminal import prepare_streams
from avatar_bench.errors import ConfigError, suggest_names


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; SIGTERM raises SystemExit(143)."""
    words = list(sys.argv[1:] if argv is None else argv)
    gc.set_threshold(50_000)  # imports make a million objects and no garbage: collect less often
    # let numpy's idle threads sleep: by default each spins for 2^26 cycles and slows torch's threads down
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
    # let torch's threads sleep soon too: by default they spin for milliseconds where another program holds up one of
    # them, and a network takes several times as long; after so few turns little is lost alone (docs/speed.md)
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # its own pools keep the memory of freed tables
    prepare_streams()
    with _exit_on_sigterm(last=argv is None), ExitStack() as used:
        try:
            used.enter_context(entries.use_folders(overrides.find_config_folders(words)))  # errors name their entries
            code = _dispatch(words)
            sys.stdout.flush()
            return code
        except (KeyboardInterrupt, SystemExit) as error:
            if isinstance(error, KeyboardInterrupt) or error.code == 128 + signal.SIGTERM:
                print("; ".join(["interrupted", *getattr(error, "__notes__", ())]), file=sys.stderr)
            if isinstance(error, SystemExit):
                raise
            return 128 + signal.SIGINT
        except BrokenPipeError:  # the reader of the pipe, such as head, has exited
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter would report it at exit
            return 0
        except Exception as error:
            lines, code = explain(error)
            print("\n".join(lines), file=sys.stderr)
            return code


def _dispatch(words: list[str]) -> int:
    command, *rest = words or ["--help"]
    if command in ("--help", "-h", "help"):
        print(_format_usage())
    elif command == "--version" or "--version" in rest:
        print(f"avatar-bench {__version__}")
    elif command not in (known := entries.find_entries("command")):
        if missing := entries.explain_missing("command", command):
            raise ConfigError(f"{command}: {missing}")
        nearest = suggest_names(command, known, "")
        raise ConfigError(f"{command}: no such command{nearest}", f"commands: {' '.join(known)}")
    elif command in catalogue.PLAIN_COMMANDS:
        known[command].load().execute([] if {"--help", "-h"} & set(rest[:1]) else rest)
    elif "--help" in rest or "-h" in rest:
        from avatar_bench.cli.help import format_help

        print(format_help(command, [word for word in rest if word not in ("--help", "-h")]))
    else:
        return run_command(command, rest)[0]
    return 0


def _format_usage() -> str:
    known = catalogue.find_commands()
    width = max(map(len, known))
    lines = [f"  {name:{width}}  {what}" for name, what in known.items()]
    heading = "avatar-bench COMMAND [option=value ...]\nIs this avatar a real photo, a drawing, or AI-generated?\n"
    hint = "\navatar-bench COMMAND --help lists its options; avatar-bench list KIND lists the choices"
    return "\n".join([heading, *lines, hint])


def run_command(command: str, words: Sequence[str]) -> tuple[int, Any]:
    """Run one command, or the jobs of a sweep, through Hydra; return the exit code and what the command returned.

    A sweep returns the folders of its jobs.
    """
    from avatar_bench.config.path_quoting import name_bare_paths, quote_paths

    flags, others = overrides.split_flags(words)
    named = name_bare_paths(command, others)
    multirun = overrides.is_multirun(flags, named)
    if multirun and any(word.startswith("profile=") for word in named):
        raise ConfigError("profile: a sweep has many jobs", "profile one of them: without -m, and with single values")
    if not multirun:  # a comma between blocks can mean nothing else
        named = [re.sub(r"block=([\w,]+,\w+)", r"block=[\1]", word) for word in named]
    quoted = quote_paths(command, named, multirun)
    if not multirun:
        return _call_hydra(command, flags, quoted, None)
    with tempfile.TemporaryDirectory() as scratch:  # Hydra's sweeper always writes a multirun.yaml
        folder = overrides.choose_sweep_folder(named) if command == "train" else Path(scratch)
        return _call_hydra(command, flags, quoted + overrides.make_sweep_overrides(quoted, folder), folder)


def _call_hydra(command: str, flags: list[str], quoted: list[str], folder: Path | None) -> tuple[int, Any]:
    """Call Hydra, which reads sys.argv; `folder` is that of a sweep."""
    import hydra

    from avatar_bench.cli.task import CommandTask, JobError
    from avatar_bench.config.composition import register

    register(command, quoted)
    job = CommandTask(command)
    entry = hydra.main(config_path=str(catalogue.find_conf_folder()), config_name=command, version_base="1.3")(job)
    with _hydra_environment([*flags, *quoted]):
        if folder is None:
            entry()
            if job.errors:
                raise job.errors[0]
            return 0, job.value
        from avatar_bench.cli.sweep import Sweep

        sweep = Sweep(folder, records=command == "train")
        try:
            with sweep.track_launcher():
                entry()
        except JobError as error:
            print("\n".join(error.lines), file=sys.stderr)
        finally:
            code = sweep.finish()
    return code, [folder / name for name in sweep.jobs]


@contextmanager
def _hydra_environment(words: list[str]) -> Iterator[None]:
    """Set sys.argv for Hydra, and make it raise errors instead of printing them; undo what --info does to logging."""
    argv, full_error, root = sys.argv, os.environ.get("HYDRA_FULL_ERROR"), logging.getLogger()
    handlers, level = list(root.handlers), root.level
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = ["avatar-bench", *words], "1"
    if sys.version_info >= (3, 14):  # checks the help of options, which of hydra-core 1.3.8 is no string: hydra#3121
        argparse.ArgumentParser._check_help = lambda self, action: None  # type: ignore[attr-defined]
    try:
        yield
    finally:
        sys.argv = argv
        root.handlers[:] = handlers
        root.setLevel(level)
        os.environ.pop("HYDRA_FULL_ERROR") if full_error is None else os.environ.update(HYDRA_FULL_ERROR=full_error)


@contextmanager
def _exit_on_sigterm(last: bool) -> Iterator[None]:
    """Turn SIGTERM into SystemExit, so that commands can clean up; works in the main thread only.

    With `last`, signals are ignored afterwards, as they would print tracebacks at interpreter shutdown, and its
    objects are exempt from the final garbage collection, which takes half a second after torch.
    """

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    try:
        with use_handlers({signal.SIGTERM: leave}, after=signal.SIG_IGN if last else None):
            yield
    finally:
        if last:
            atexit.register(gc.freeze)
            signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
