"""Store of a detector's answers by image, each kept as soon as it is there."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_AT_ONCE = 500  # keys in one query; SQLite allows 999


class AnswerStore:
    """Rows of probabilities by the hash of an image, in an SQLite file that is created with the first answer."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def read(self, keys: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """Return the known answers among the keys."""
        if not self.file.is_file():
            return {}
        found: dict[str, NDArray[np.float64]] = {}
        with closing(self._connect()) as connection:
            for first in range(0, len(keys), _AT_ONCE):
                some = keys[first : first + _AT_ONCE]
                query = f"SELECT image, probabilities FROM answers WHERE image IN ({','.join('?' * len(some))})"
                found |= {key: np.frombuffer(row, dtype="<f8") for key, row in connection.execute(query, some)}
        return found

    def write(self, answers: dict[str, NDArray[np.float64]]) -> None:
        """Add answers; they are on disk when this returns."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with closing(self._connect()) as connection, connection:
            connection.execute("CREATE TABLE IF NOT EXISTS answers (image TEXT PRIMARY KEY, probabilities BLOB)")
            rows = [(key, np.asarray(row, dtype="<f8").tobytes()) for key, row in answers.items()]
            connection.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", rows)

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.file, timeout=60)
