"""Block embedding: two-dimensional maps of a run's pre-logits embeddings, coloured by class and by source."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.audit.probes import sample_rows
from avatar_bench.errors import BlockError, ConfigError
from avatar_bench.evaluation.block import check_class_order
from avatar_bench.evaluation.blocks.embedding import figures
from avatar_bench.evaluation.intervals import IntervalOptions, bootstrap_metrics
from avatar_bench.i18n import _
from avatar_bench.metrics import clusters, neighbourhoods
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.results.predictions import Predictions
    from avatar_bench.runs.run import Run

Reals = NDArray[np.floating]
PROJECTION_METHODS = ("tsne", "pca", "umap")
_MIN_IMAGES = 8  # with fewer images, neighbourhoods are meaningless
_N_SHUFFLES = 5  # shuffled maps for the floor


@dataclass(kw_only=True)
class Embedding(IntervalOptions):
    """Two-dimensional maps of the embeddings of a set.

    `method` is tsne, pca, umap, or a list of them; `perplexity` (1 or more) of t-SNE and `neighbors` (2 or more) of
    UMAP are lowered if there are few images; `trust_neighbors` (1 or more) of trustworthiness; `limit`, the maximum
    number of images drawn; `named_sources`, how many of the largest sources get a colour.
    """

    method: Any = "tsne"
    perplexity: float = 30.0
    neighbors: int = 15
    trust_neighbors: int = 5
    limit: int = 2000
    named_sources: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        valid = bool(self._methods) and set(self._methods) <= set(PROJECTION_METHODS)
        self.require("method", valid, f"{', '.join(PROJECTION_METHODS)}, or a list of them")
        self.require("perplexity", self.perplexity >= 1, "1 or more")
        self.require("neighbors", self.neighbors >= 2, "2 or more")
        self.require("trust_neighbors", self.trust_neighbors >= 1, "1 or more")
        self.require("limit", self.limit >= _MIN_IMAGES, f"{_MIN_IMAGES} or more")
        self.require("named_sources", self.named_sources >= 0, "0 or more")
        if "umap" in self._methods and find_spec("umap") is None:
            raise ConfigError(
                "block.embedding.method=umap: the package umap-learn is not installed.",
                "Install it (pip install 'avatar-bench[umap]'), or choose tsne or pca.",
            )

    def evaluate(self, run: Run, dataset: Dataset) -> Result:
        """Compute a map, its points and its trustworthiness for each method; the true class may be unknown.

        Raise BlockError if there are fewer than 8 images, GuardError if the class names are in the wrong order.
        """
        asked = run.predictions(dataset)
        check_class_order(asked, run.allow)
        if len(asked) < _MIN_IMAGES:
            raise BlockError(
                f"{dataset.name}: {len(asked)} images are too few for a map; at least {_MIN_IMAGES} are needed."
            )
        drawn = asked.take(sample_rows(pd.DataFrame({"label": asked.targets}), self.limit, self.seed))
        result = Result("embedding", dataset.name, len(drawn), run.classes)
        result.warnings = self._collect_warnings(len(asked), len(drawn))
        result.arrays["embeddings"] = {"embeddings": drawn.embeddings}
        for method in self._methods:
            suffix = "" if method == self._methods[0] else f"_{method}"
            points = self._project(method, drawn.embeddings)
            result.tables[f"points{suffix}"] = _tabulate_points(drawn, points)
            result.figures[method] = figures.draw_maps(points, drawn, method, self.named_sources)
            result.metrics[f"trustworthiness{suffix.replace('_', '/')}"] = self._compute_trustworthiness(drawn, points)
        return result

    @property
    def _methods(self) -> list[str]:
        return [self.method] if isinstance(self.method, str) else list(dict.fromkeys(self.method))

    def _project(self, method: str, embeddings: Reals) -> Reals:
        """Return the position of each image on the map, (N, 2)."""
        if method == "tsne":
            return _project_tsne(embeddings, self._limit_perplexity(len(embeddings)), self.seed)
        if method == "umap":
            return _project_umap(embeddings, min(self.neighbors, len(embeddings) - 1), self.seed)
        return _project_pca(embeddings)

    def _limit_perplexity(self, n: int) -> float:
        # t-SNE uses about three times as many neighbours, and so many must exist
        return min(self.perplexity, (n - 1) / 3)

    def _compute_trustworthiness(self, drawn: Predictions, points: Reals) -> Metric:
        n = len(points)
        k = min(self.trust_neighbors, (n - 1) // 2)
        each = neighbourhoods.trustworthiness(drawn.embeddings, points, k)
        generator = np.random.default_rng(self.seed)
        noise = [
            neighbourhoods.trustworthiness(drawn.embeddings, generator.permutation(points), k)
            for __ in range(_N_SHUFFLES)
        ]
        statistic = partial(clusters.weighted_means, values=each[:, None])
        name = "trustworthiness"
        return bootstrap_metrics(self, [name], statistic, drawn.groups, floors={name: float(np.mean(noise))})[name]

    def _collect_warnings(self, asked: int, drawn: int) -> list[str]:
        messages = []
        if drawn < asked:
            messages.append(_("{drawn} of {n} images are drawn, in the same class proportions", drawn=drawn, n=asked))
        if "tsne" in self._methods and self._limit_perplexity(drawn) < self.perplexity:
            messages.append(
                _(
                    "perplexity is lowered to {value}: there are only {n} images",
                    value=f"{self._limit_perplexity(drawn):.3g}",
                    n=drawn,
                )
            )
        return messages


def _project_tsne(embeddings: Reals, perplexity: float, seed: int) -> Reals:
    from sklearn.manifold import TSNE

    model: Any = TSNE(perplexity=perplexity, init="pca", random_state=seed)  # type: ignore[no-untyped-call]
    return np.asarray(model.fit_transform(embeddings))


def _project_pca(embeddings: Reals) -> Reals:
    from sklearn.decomposition import PCA

    model: Any = PCA(n_components=2, svd_solver="full")  # type: ignore[no-untyped-call]
    return np.asarray(model.fit_transform(embeddings.astype(np.float64)))


def _project_umap(embeddings: Reals, neighbors: int, seed: int) -> Reals:
    umap: Any = import_module("umap")  # optional dependency
    model = umap.UMAP(n_neighbors=neighbors, random_state=seed, n_jobs=1)
    return np.asarray(model.fit_transform(embeddings))


def _tabulate_points(drawn: Predictions, points: Reals) -> pd.DataFrame:
    names = np.array([*drawn.classes, ""])  # -1 means unknown
    return pd.DataFrame(
        {
            "path": drawn.paths,
            "target": names[drawn.targets],
            "source": drawn.sources,
            "x": points[:, 0].astype(np.float64),
            "y": points[:, 1].astype(np.float64),
        }
    )
