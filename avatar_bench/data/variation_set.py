"""Files of varied images, with a manifest, for systems that can only be given files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from avatar_bench.data.corruptions import Variation, derive_seed, encode
from avatar_bench.data.dataset import DATE_COLUMNS, Dataset
from avatar_bench.data.equalise import ImageArray
from avatar_bench.errors import ConfigError
from avatar_bench.files.atomic_write import atomic_write, remove_parts, write_text
from avatar_bench.files.output_folder import refuse_foreign_folder
from avatar_bench.files.paths import make_folder_name
from avatar_bench.files.table_io import format_csv

CLEAN = "clean"  # name of the images as they are
MANIFEST, RECIPE = "manifest.csv", "recipe.json"
_KEPT = ("label", "source", "group", "split", *DATE_COLUMNS)
VARIATION_COLUMNS = ("path", *_KEPT, "source_path", "source_sha256", "variation")
_SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}
_SAMPLE = 3  # images that are encoded to estimate the size of all


@dataclass(frozen=True)
class VariationSet:
    """Images of a data set as they are and under variations, as files; `description` is what else these depend on."""

    dataset: Dataset
    variations: Mapping[str, Variation]
    prepare: Callable[[ImageArray], ImageArray] | None
    out: Path
    description: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.dataset) * (1 + len(self.variations))

    def estimate_bytes(self) -> int:
        """Estimate the size of all files from those of a few images."""
        rows = np.unique(np.linspace(0, len(self.dataset) - 1, _SAMPLE).astype(int)).tolist()
        encoders = [self._make_encoder(row) for row in rows]
        sizes = [len(encoder(name)[0]) for encoder in encoders for name in (CLEAN, *self.variations)]
        return round(len(self) * float(np.mean(sizes)))

    def refuse_other_files(self) -> None:
        """Raise DataError if the folder holds other files, ConfigError for other images or variations."""
        refuse_foreign_folder(self.out, RECIPE, ("data_digest", "variations"))
        file = self.out / RECIPE
        if file.is_file() and json.loads(file.read_text(encoding="utf-8")) != self._recipe:
            reason = f"out={self.out} holds variations of other images, or made with other options."
            raise ConfigError(reason, "Choose another folder, or delete that one.")

    def write(self) -> Iterator[int]:
        """Write missing files, then the manifest; yield the number of new files of each image; raise DataError."""
        remove_parts(self.out)
        write_text(self.out / RECIPE, json.dumps(self._recipe, indent=1, ensure_ascii=False) + "\n")
        rows: list[dict[str, str]] = []
        with ThreadPoolExecutor() as pool:
            for new, files in pool.map(self._write_image, range(len(self.dataset))):
                rows += files
                yield new
        write_text(self.out / MANIFEST, format_csv(pd.DataFrame(rows, columns=list(VARIATION_COLUMNS))))

    @property
    def _recipe(self) -> dict[str, Any]:
        keys = {name: variation.key for name, variation in self.variations.items()}
        return {"data_digest": self.dataset.digest, "variations": keys, **self.description}

    def _write_image(self, row: int) -> tuple[int, list[dict[str, str]]]:
        """Write the missing files of an image; return their number, and the rows of all its files."""
        frame, new, rows = self.dataset.frame, 0, []
        about = {name: str(frame[name].iat[row]) for name in _KEPT}
        about["source_path"] = Path(os.path.relpath(self.dataset.file(row), self.out)).as_posix()
        about["source_sha256"] = str(frame["sha256"].iat[row])
        encode_one = self._make_encoder(row)
        for name in (CLEAN, *self.variations):
            folder = Path("images", make_folder_name(name.replace("/", "-")), about["source_sha256"][:20])
            paths = map(folder.with_suffix, _SUFFIXES.values())
            path = next((path for path in paths if (self.out / path).is_file()), None)
            if path is None:
                content, kind = encode_one(name)
                path, new = folder.with_suffix(_SUFFIXES[kind]), new + 1
                (self.out / path).parent.mkdir(parents=True, exist_ok=True)
                # threads may write copies of one image
                with atomic_write(self.out / path, alone=False, sync=False) as part:
                    part.write_bytes(content)
            rows.append({"path": path.as_posix(), **about, "variation": name})
        return new, rows

    def _make_encoder(self, row: int) -> Callable[[str], tuple[bytes, str]]:
        """Return a function from a variation's name to the file of an image, decoded when needed, and its format."""
        read = cache(lambda: self.dataset.image(row))
        resize = cache(lambda: self.prepare(read()) if self.prepare else read())
        seed = derive_seed(str(self.dataset.frame["sha256"].iat[row]))

        def encode_one(name: str) -> tuple[bytes, str]:
            if name == CLEAN:
                return encode(resize(), "PNG"), "PNG"
            variation = self.variations[name]
            return variation.encode(resize() if variation.at == "input" else read(), seed)

        return encode_one
