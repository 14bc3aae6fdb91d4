"""Two-dimensional maps of embeddings, and how far they are to be trusted."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.audit.probes import sample_rows
from avatar_bench.errors import BlockError
from avatar_bench.evaluation.intervals import bootstrap_metrics
from avatar_bench.metrics import neighbours, stats
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from avatar_bench.evaluation.blocks.clusters import Clusters
    from avatar_bench.results.predictions import Predictions

Reals = NDArray[np.floating]
_MIN_IMAGES = 8  # with fewer images, neighbours are meaningless
_N_SHUFFLES = 5  # shuffled maps for the floor


def build_maps(block: Clusters, asked: Predictions, name: str) -> Result:
    """Compute a map, its points and its trustworthiness for each method; the true class may be unknown.

    `name` is that of the set. Raise BlockError if there are fewer than 8 images.
    """
    n = len(asked)
    if n < _MIN_IMAGES:
        raise BlockError(f"{name}: {n} images are too few for a map; at least {_MIN_IMAGES} are needed.")
    drawn = asked.take(sample_rows(pd.DataFrame({"label": asked.targets}), block.limit, block.seed))
    result = Result("clusters", name, len(drawn), asked.classes)
    # t-SNE uses about three times as many neighbours, and so many must exist
    perplexity = min(block.perplexity, (result.n - 1) / 3)
    result.warnings = [Reason("limited", n=result.n, all=n)] if result.n < n else []
    if "tsne" in block.methods and perplexity < block.perplexity:
        result.warnings.append(Reason("perplexity_lowered", value=perplexity, n=result.n))
    settings = {"methods": np.array(block.methods), "named_sources": np.array(block.named_sources)}
    result.arrays["points"] = {"embeddings": drawn.embeddings, **settings}
    target = np.array([*drawn.classes, ""])[drawn.targets]  # -1 means unknown
    for method in block.methods:
        suffix = "" if method == block.methods[0] else f"_{method}"
        points = _project(method, drawn.embeddings, perplexity, block)
        x, y = points.astype(np.float64).T
        images = {"path": drawn.paths, "target": target, "source": drawn.sources}
        result.tables[f"points{suffix}"] = pd.DataFrame(images | {"x": x, "y": y})
        metric = _compute_trustworthiness(drawn, points, block)
        result.metrics[f"trustworthiness{suffix.replace('_', '/')}"] = metric
    return result


def _project(method: str, embeddings: Reals, perplexity: float, block: Clusters) -> Reals:
    """Return the position of each image on the map, (N, 2)."""
    model: Any
    if method == "tsne":
        from sklearn.manifold import TSNE

        model = TSNE(perplexity=perplexity, init="pca", random_state=block.seed)  # type: ignore[no-untyped-call]
    elif method == "pca":
        from sklearn.decomposition import PCA

        model = PCA(n_components=2, svd_solver="full")  # type: ignore[no-untyped-call]
        embeddings = embeddings.astype(np.float64)
    else:
        neighbors = min(block.umap_neighbors, len(embeddings) - 1)
        model = import_module("umap").UMAP(n_neighbors=neighbors, random_state=block.seed, n_jobs=1)
    return np.asarray(model.fit_transform(embeddings))


def _compute_trustworthiness(drawn: Predictions, points: Reals, block: Clusters) -> Metric:
    n, name = len(points), "trustworthiness"
    k = min(block.trust_neighbors, (n - 1) // 2)
    each = neighbours.trustworthiness(drawn.embeddings, points, k)
    generator = np.random.default_rng(block.seed)
    shuffled = (generator.permutation(points) for __ in range(_N_SHUFFLES))
    floors = {name: float(np.mean([neighbours.trustworthiness(drawn.embeddings, one, k) for one in shuffled]))}
    return bootstrap_metrics(block, [name], stats.build_mean_statistic(each[:, None]), drawn.units, floors=floors)[name]
