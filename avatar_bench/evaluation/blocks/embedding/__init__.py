"""Block embedding: two-dimensional maps of a run's pre-logits embeddings, coloured by class and by source."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.audit.probes import sample_rows
from avatar_bench.config.options import option
from avatar_bench.errors import BlockError, ConfigError
from avatar_bench.evaluation.block import check_class_order
from avatar_bench.evaluation.intervals import IntervalOptions, bootstrap_metrics
from avatar_bench.metrics import neighbourhoods, stats
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.results.predictions import Predictions
    from avatar_bench.runs.run import Run

Reals = NDArray[np.floating]
_MIN_IMAGES = 8  # with fewer images, neighbourhoods are meaningless
_N_SHUFFLES = 5  # shuffled maps for the floor


@dataclass(kw_only=True)
class Embedding(IntervalOptions):
    """Two-dimensional maps of the embeddings of a set."""

    version: ClassVar[int] = 2
    needs: ClassVar[tuple[str, ...]] = ("predictions", "embeddings")

    method: Any = option(
        "tsne",
        help="a method, or a list of them; umap needs umap-learn",
        choices=("tsne", "pca", "umap"),
        check=bool,
        expected="tsne, pca, umap, or a list of them",
    )
    perplexity: float = option(
        30.0, help="of t-SNE: approximate number of neighbours; lowered for few images", range=(1, None)
    )
    neighbors: int = option(15, help="of UMAP; lowered for few images", range=(2, None))
    trust_neighbors: int = option(5, help="neighbours on the map for trustworthiness", range=(1, None))
    limit: int = option(2000, help="maximum number of images, drawn stratified by class", range=(_MIN_IMAGES, None))
    named_sources: int = option(
        10, help="largest sources, which have their own colour; the others are grey", range=(0, None)
    )
    seed: int = option(0, help="of the maps, the bootstrap and the draw", range=(0, None))

    def __post_init__(self) -> None:
        super().__post_init__()
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
        n = len(asked)
        if n < _MIN_IMAGES:
            raise BlockError(f"{dataset.name}: {n} images are too few for a map; at least {_MIN_IMAGES} are needed.")
        drawn = asked.take(sample_rows(pd.DataFrame({"label": asked.targets}), self.limit, self.seed))
        result = Result("embedding", dataset.name, len(drawn), run.classes)
        perplexity = self._limit_perplexity(result.n)
        result.warnings = [Reason("limited", n=result.n, all=n)] if result.n < n else []
        if "tsne" in self._methods and perplexity < self.perplexity:
            result.warnings.append(Reason("perplexity_lowered", value=perplexity, n=result.n))
        settings = {"methods": np.array(self._methods), "named_sources": np.array(self.named_sources)}
        result.arrays["embeddings"] = {"embeddings": drawn.embeddings, **settings}
        target = np.array([*drawn.classes, ""])[drawn.targets]  # -1 means unknown
        for method in self._methods:
            suffix = "" if method == self._methods[0] else f"_{method}"
            points = self._project(method, drawn.embeddings)
            x, y = points.astype(np.float64).T
            images = {"path": drawn.paths, "target": target, "source": drawn.sources}
            result.tables[f"points{suffix}"] = pd.DataFrame(images | {"x": x, "y": y})
            result.metrics[f"trustworthiness{suffix.replace('_', '/')}"] = self._compute_trustworthiness(drawn, points)
        return result

    @property
    def _methods(self) -> list[str]:
        return [self.method] if isinstance(self.method, str) else list(dict.fromkeys(self.method))

    def _project(self, method: str, embeddings: Reals) -> Reals:
        """Return the position of each image on the map, (N, 2)."""
        model: Any
        if method == "tsne":
            from sklearn.manifold import TSNE

            perplexity = self._limit_perplexity(len(embeddings))
            model = TSNE(perplexity=perplexity, init="pca", random_state=self.seed)  # type: ignore[no-untyped-call]
        elif method == "pca":
            from sklearn.decomposition import PCA

            model = PCA(n_components=2, svd_solver="full")  # type: ignore[no-untyped-call]
            embeddings = embeddings.astype(np.float64)
        else:
            neighbors = min(self.neighbors, len(embeddings) - 1)
            model = import_module("umap").UMAP(n_neighbors=neighbors, random_state=self.seed, n_jobs=1)
        return np.asarray(model.fit_transform(embeddings))

    def _limit_perplexity(self, n: int) -> float:
        # t-SNE uses about three times as many neighbours, and so many must exist
        return min(self.perplexity, (n - 1) / 3)

    def _compute_trustworthiness(self, drawn: Predictions, points: Reals) -> Metric:
        n = len(points)
        k = min(self.trust_neighbors, (n - 1) // 2)
        each = neighbourhoods.trustworthiness(drawn.embeddings, points, k)
        generator = np.random.default_rng(self.seed)
        shuffled = (generator.permutation(points) for __ in range(_N_SHUFFLES))
        noise = [neighbourhoods.trustworthiness(drawn.embeddings, one, k) for one in shuffled]
        statistic = stats.build_mean_statistic(each[:, None])
        name = "trustworthiness"
        return bootstrap_metrics(self, [name], statistic, drawn.units, floors={name: float(np.mean(noise))})[name]
