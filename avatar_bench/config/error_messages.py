"""Messages of at most three lines and exit codes for our own, Hydra's and the system's errors."""

from __future__ import annotations

import errno
import os
import re
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from avatar_bench.config.catalogue import find_choices
from avatar_bench.config.entries import explain_missing, find_renamed, is_of_user
from avatar_bench.console.terminal import escape_control_characters, hide_credentials
from avatar_bench.errors import AvatarBenchError, ConfigError, OutputError, suggest_names

_MAX_LISTED_OPTIONS = 40
_DISK_ERRORS = (
    *(errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EROFS, errno.EDQUOT),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
)
# messages of torch on CPU and GPU, OpenCV and C++
_OUT_OF_MEMORY = re.compile(
    "(not enough|insufficient|out of|n.t allocate|cannot allocate) memory|bad_alloc", re.IGNORECASE
)
_WORKER_KILLED = re.compile(r"DataLoader worker .*(exited unexpectedly|is killed by signal)")
_SHARED_MEMORY = "shared memory"  # in torch's texts; a container has 64 MiB of it

_EXTRAS = {
    **dict.fromkeys([f"hydra/launcher={name}" for name in ("joblib", "submitit_local", "submitit_slurm")], "sweeps"),
    "hydra/launcher=ray": "ray-launcher",
    "hydra/sweeper=optuna": "optuna",
}


def explain(error: BaseException) -> tuple[tuple[str, ...], int]:
    """Return the message lines and exit code of an error; print its traceback first if AVATAR_BENCH_DEBUG=1."""
    if os.environ.get("AVATAR_BENCH_DEBUG") == "1":
        traceback.print_exception(error)
    return format_error(error)


def format_error(error: BaseException) -> tuple[tuple[str, ...], int]:
    """Return the message lines and exit code of an error, printable and without passwords."""
    lines, code = _describe_error(error)
    return tuple(escape_control_characters(hide_credentials(line)) for line in lines), code


def find_user_error(error: BaseException) -> AvatarBenchError | None:
    """Return an error that a user can cause as one of ours, with the message of the command line; None for a bug."""
    if ours := _find_own_error(error):
        return ours
    lines, code = format_error(error)
    kinds: dict[int, type[AvatarBenchError]] = {kind.exit_code: kind for kind in (ConfigError, OutputError)}
    return kinds[code](*lines) if code in kinds else None


def _describe_error(error: BaseException) -> tuple[tuple[str, ...], int]:
    if ours := _find_own_error(error):
        return _drop_details(ours.lines), ours.exit_code
    if _is_hydra_error(error):
        return _describe_config_error(error), 2
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return (f"{str(error.filename)[:100]}...: {error.strerror}",), 2
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        return (f"{error.filename or 'output'}: {error.strerror}",), OutputError.exit_code
    if lacks := _describe_shortage(error):
        return lacks, OutputError.exit_code  # a limit of the machine, like a full disk
    text = " ".join(str(error).split())[:300]
    passed = traceback.walk_tb(error.__traceback__)
    places = [(frame, line) for frame, line in passed if is_of_user(frame.f_globals.get("__name__", ""))]
    if places:  # the innermost line of a user's code
        frame, line = places[-1]
        return (f"{frame.f_code.co_filename}, line {line}: {type(error).__name__}: {text}",), 2
    hint = "please report it with the command and the output under AVATAR_BENCH_DEBUG=1"
    return (f"internal error: {type(error).__name__}: {text} ({hint})",), 1


def _describe_shortage(error: BaseException) -> tuple[str, ...]:
    """Return a message if memory ran out or a worker was killed, else (); only the error's text shows which."""
    text, less = str(error), "use workers=0 (data.workers=0 of train)"
    if _SHARED_MEMORY in text:
        advice = f"Give them more (docker run --shm-size=2g), or {less}."
        return "The shared memory, /dev/shm, is full, by which processes pass images on.", advice
    modules = (frame.f_globals.get("__name__") for frame, _line in traceback.walk_tb(error.__traceback__))
    if _WORKER_KILLED.search(text) or (  # torch may not have noticed that a process ended while it handed over a batch
        isinstance(error, ConnectionError | EOFError) and "torch.multiprocessing.reductions" in modules
    ):
        return (
            "An image-loading process was killed from outside.",
            f"If memory ran out, {less} or a smaller batch_size.",
        )
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(text) or getattr(error, "errno", None) == errno.ENOMEM:
        return "Out of memory.", "Use smaller batches: data.batch_size=N (predict: batch_size=N)."
    return ()


def _find_own_error(error: BaseException) -> AvatarBenchError | None:
    """Return the AvatarBenchError that an error is, or that Hydra or OmegaConf wrapped; None if there is none."""
    if isinstance(error, AvatarBenchError):
        return error
    inner = error.__cause__ or error.__context__
    return _find_own_error(inner) if inner is not None and _is_hydra_error(error) else None


def _is_hydra_error(error: BaseException) -> bool:
    """Return whether Hydra or OmegaConf raised this error."""
    if type(error).__module__.startswith(("hydra.", "omegaconf.")):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    raised_in = Path(frames[-1].filename).parts if frames else ()
    return isinstance(error, ValueError | AssertionError) and "hydra" in raised_in and "avatar_bench" not in raised_in


def _describe_config_error(error: BaseException) -> tuple[str, ...]:
    """Return the message for an invalid option, parsed from the text of Hydra's or OmegaConf's error."""
    text = str(error)
    if match := re.search(r"Could not (?:find|load) '([^']+)/([^'/]+)/?'", text):
        return _describe_unknown_choice(match[1], match[2], text)
    if match := re.search(r"Could not override '([^']+)'", text):
        return _describe_unknown_option(match[1], error)
    if match := re.search(r"Error merging override (.+)", text, re.DOTALL):
        return _describe_wrong_type(match[1].lstrip("+"), error)
    if match := re.search(r"Ambiguous value for argument '(.*)'\n", text):
        name, _, values = match[1].partition("=")
        advice = f"or, if the option takes several values at once, write a list: '{name}=[{values}]'"
        return f"{match[1]}: several values; add -m to run one job per value,", advice
    if type(error).__name__ == "OverrideParseException":
        reason = next((line for line in text.splitlines() if "override" not in line and "^" not in line), "")
        details = f" ({reason})" if reason and "Exception" not in reason and "http" not in reason else ""
        what = f"cannot parse {getattr(error, 'override', '')}{details}"
        return what, "quote text with special characters twice: 'option=\"a, b\"'"
    lines = [line.strip() for line in f"{text}\n{error.__cause__ or ''}".splitlines() if line.strip()]
    return _drop_details(lines)


def _drop_details(lines: Sequence[str]) -> tuple[str, ...]:
    """Return at most three lines, without OmegaConf's lines for developers."""
    stripped = (line.strip() for line in lines)
    return tuple(line for line in stripped if not line.startswith(("object_type", "reference_type")))[:3]


def _describe_unknown_choice(group: str, name: str, text: str) -> tuple[str, ...]:
    if extra := _EXTRAS.get(f"{group}={name}"):
        return f"{group}={name}: its package is not installed", f'install it: pip install "avatar-bench[{extra}]"'
    if missing := explain_missing(group, name):
        return (f"{group}={name}: {missing}",)
    head, _, path = f"{group}/{name}".partition("/")
    if head == "data" and Path(path).exists():
        option = "data=folder data.root" if Path(path).is_dir() else "data=manifest data.manifest"
        return f"data={path}: no such data", f"for images of your own: {option}={path}"
    listed = text.partition("Available options")[2].partition("search path:")[0]
    known = list(find_choices(group)) or re.findall(r"^\t(\S+)$", listed, re.MULTILINE)  # such as hydra/launcher
    what = f"{group}={name}: no such {group}{suggest_names(name, known, '')}"
    return (what, f"there are: {' '.join(known)}") if known else (what,)


def _describe_unknown_option(option: str, error: BaseException) -> tuple[str, ...]:
    """Return a message with the nearest known options and the options of its level, or of its name elsewhere."""
    parts, last = option.split("."), option.rpartition(".")[2]
    if parts[0] == "block" and (now := find_renamed("block").get(former := "".join(parts[1:2]))):
        return f"{option}: block '{former}' is now '{now}'", f"its options: avatar-bench evaluate block={now} --help"
    if absent := explain_missing("option", parts[0]):
        return (f"{option}: {absent}",)
    siblings = getattr(error.__cause__, "parent_node", None)
    # get, as an option that is still missing raises on siblings[key]
    known = {str(key): siblings.get(key) for key in siblings if key != "hydra"} if isinstance(siblings, Mapping) else {}
    missing = re.search(r"Key '([^']+)'", str(error.__cause__))
    name = missing[1] if missing else last
    level = ".".join(parts[: parts.index(name)] if name in parts else parts[:-1])
    groups = {group: values for group, values in known.items() if isinstance(values, Mapping) and name in values}
    if not level and name != last and last in known:
        lines = [f"{option}: no such option; did you mean {last}?"]
    elif not level and groups:
        group, values = next(iter(groups.items()))
        lines = [f"{option}: no such option; did you mean {group}.{option}?"]
        if isinstance(values[name], Mapping):
            known, level = dict(values[name]), f"{group}.{name}"
    else:
        lines = [f"{option}: no such option{suggest_names(name, known, '', f'{level}.' if level else '')}"]
    if known and len(known) <= _MAX_LISTED_OPTIONS:
        lines.append(f"{level or 'there are'}: {' '.join(map(str, known))}")
    elif not known:  # a group of choices that belongs to other commands
        lines.append("this command has none of that name: --help lists its options")
    return tuple(lines)


def _describe_wrong_type(override: str, error: BaseException) -> tuple[str, ...]:
    option, _, value = override.partition("=")
    cause = str(error.__cause__).splitlines()[0]
    if match := re.search(r"could not be converted to (\w+)|is not a valid bool", cause):
        kinds = {"Integer": "a whole number", "Float": "a number", None: "true or false", "String": "a text"}
        return (f"{option}: expected {kinds.get(match[1], match[1])}, got {value}",)
    if "is not a ListConfig" in cause:
        return (f"{option}: expected a list, got {value}", f"Write it in brackets: '{option}=[{value}]'")
    if "DictConfig with" in cause or "to Dict[" in cause:
        what = f"{option}: expected names with values, got {value}"
        return what, f"Write them in braces: '{option}={{NAME: VALUE}}'"
    if "is not Optional" in cause:
        return (f"{option}: expected a value, got {value}",)
    return (f"{option}: invalid value {value}: {cause}",)
