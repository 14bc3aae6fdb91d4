"""The out-of-domain sets of a run, read and put through it, or refused together where one is broken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avatar_bench.errors import BlockError, DataError, GuardError

if TYPE_CHECKING:
    from avatar_bench.data.manifest import Dataset
    from avatar_bench.predictions import Predictions
    from avatar_bench.runs import Run


def read(run: Run) -> dict[str, tuple[Dataset, Predictions]]:
    """Give every out-of-domain set with its Predictions, by name.

    Raise BlockError where a folder is missing or a picture broken, so that other blocks go on; GuardError as the run.
    """
    name = ""
    try:
        found = {}
        for name, other in run.ood.items():
            found[name] = other, run.predictions(other)
        return found
    except (GuardError, BlockError):
        raise
    except DataError as error:
        which = f"The out-of-domain set {name}" if name else "An out-of-domain set"
        raise BlockError(
            f"{which} cannot be used: {error.lines[0]}",
            f"Mend it, or name another folder: 'data.ood={{{name or 'NAME'}: FOLDER}}'",
        ) from error
