"""Block clusters: separation of classes, and of sources within a class, in a run's embeddings, and maps of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.audit.probes import sample_rows
from avatar_bench.config.options import option
from avatar_bench.errors import BlockError, ConfigError, DataError
from avatar_bench.evaluation.block import (
    check_class_order,
    join_parts,
    labelled_rows,
    tabulate_predictions,
    warn_unlabelled,
)
from avatar_bench.evaluation.intervals import (
    DIFFERENCE,
    LOSS,
    PROPORTION,
    IntervalOptions,
    bootstrap_metrics,
    compute_proportion,
)
from avatar_bench.metrics import clusters, neighbours, stats
from avatar_bench.metrics.clusters import EmbeddingSpace
from avatar_bench.metrics.units import LEAST_UNITS
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.results.predictions import Predictions
    from avatar_bench.runs.run import Run

Floats = NDArray[np.float64]
Labels = NDArray[np.integer]
METRICS_BY_IMAGE = ("silhouette", "silhouette_cosine", "knn_purity")
OVERALL_METRICS = ("separation_ratio", "davies_bouldin", "calinski_harabasz")
SOURCE_METRICS = ("source_silhouette", "source_knn_purity")
CLUSTER_METRICS = ("silhouette", "silhouette_cosine", *OVERALL_METRICS, "knn_purity", "linear_probe", "knn_accuracy")
_PROBE_NEIGHBOURS = 20  # neighbours in the k-NN probe, as in pretraining


@dataclass(kw_only=True)
class Clusters(IntervalOptions):
    """Evaluation of how well a run's embeddings cluster by true class, and their two-dimensional maps."""

    version: ClassVar[int] = 4
    needs: ClassVar[tuple[str, ...]] = ("predictions", "embeddings")

    neighbors: int = option(10, help="of kNN purity", range=(1, None))
    folds: int = option(5, help="of the linear probe's cross-validation", range=(2, None))
    permutations: int = option(5, help="label permutations for the chance levels", range=(1, None))
    limit: int = option(2000, help="maximum number of images, drawn stratified by class", range=(10, None))
    sources: int = option(20, help="rows of the source heatmap, the largest sources", range=(2, None))
    method: Any = option(
        "tsne",
        help="of the map, or a list of methods; umap needs umap-learn",
        choices=("tsne", "pca", "umap"),
        check=bool,
        expected="tsne, pca, umap, or a list of them",
    )
    perplexity: float = option(
        30.0, help="of t-SNE: approximate number of neighbours; lowered for few images", range=(1, None)
    )
    umap_neighbors: int = option(15, help="of UMAP; lowered for few images", range=(2, None))
    trust_neighbors: int = option(5, help="neighbours on the map for trustworthiness", range=(1, None))
    named_sources: int = option(
        10, help="largest sources, which have their own colour on the map; the others are grey", range=(0, None)
    )
    seed: int = option(0, help="of the bootstrap, the folds, the permutations, the draw and the maps", range=(0, None))

    def __post_init__(self) -> None:
        super().__post_init__()
        if "umap" in self.methods and find_spec("umap") is None:
            raise ConfigError(
                "block.clusters.method=umap: the package umap-learn is not installed.",
                "Install it (pip install 'avatar-bench[umap]'), or choose tsne or pca.",
            )

    @property
    def methods(self) -> list[str]:
        """Return the methods of the maps, each once."""
        return [self.method] if isinstance(self.method, str) else list(dict.fromkeys(self.method))

    def evaluate(self, run: Run, dataset: Dataset) -> Result:
        """Compute separation and maps; a part whose images are too few is left out with a warning."""
        predictions = run.predictions(dataset)
        check_class_order(predictions, run.allow)
        return join_parts(
            partial(self._measure_separation, run, dataset, predictions),
            partial(build_maps, self, predictions, dataset.name),
        )

    def _measure_separation(self, run: Run, dataset: Dataset, predictions: Predictions) -> Result:
        """Compute separation by class, that of sources within classes, distances and silhouettes."""
        labelled = predictions.take(labelled_rows(predictions, dataset))
        sampled = labelled.take(sample_rows(pd.DataFrame({"label": labelled.targets}), self.limit, self.seed))
        if (np.bincount(sampled.targets) >= 2).sum() < 2:
            raise BlockError(
                f"{dataset.name}: at least two classes with two images each are needed to measure separation."
            )
        if (sampled.embeddings == sampled.embeddings[0]).all():
            raise BlockError(f"{dataset.name}: all embeddings are equal, so distances cannot be compared.")
        space = EmbeddingSpace(sampled.embeddings, sampled.groups, self.neighbors)
        images = tabulate_predictions(sampled)[["path", "target", "source", "group"]].copy()
        result = Result("clusters", dataset.name, len(sampled), run.classes)
        result.metrics = self._evaluate_classes(space, sampled, images, run)
        result.metrics |= self._evaluate_sources(space, sampled, images)
        result.tables = {"images": images, "distances": _tabulate_distances(space.euclidean, images["target"])}
        result.arrays["embeddings"] = {"embeddings": sampled.embeddings}
        named = images[images["source"] != ""]
        labels = named["target"] + ": " + named["source"]
        labels = labels[labels.isin(labels.value_counts().index[: self.sources])]
        if labels.nunique() > 1:
            rows = labels.index.to_numpy(dtype=np.intp)
            result.tables["source_distances"] = _tabulate_distances(space.euclidean[np.ix_(rows, rows)], labels)
        result.warnings = warn_unlabelled(len(predictions) - len(labelled), len(predictions))
        if result.n < len(labelled):
            result.warnings.append(Reason("limited", n=result.n, all=len(labelled)))
        purity = result.metrics["source_knn_purity"]
        has_enough = purity.low is not None and (purity.units or 0) >= LEAST_UNITS
        if has_enough and purity.floor is not None and (purity.low or 0.0) > purity.floor:
            result.warnings.append(Reason("sources_cluster", share=purity.value, chance=purity.floor))
        return result

    def _evaluate_classes(
        self, space: EmbeddingSpace, sampled: Predictions, images: pd.DataFrame, run: Run
    ) -> dict[str, Metric]:
        """Compute CLUSTER_METRICS, and add their values for each image to `images`."""
        image_scores = space.image_scores(sampled.targets)
        permuted = [
            order for order in self._permute_labels(sampled.targets, sampled.groups) if len(np.unique(order)) > 1
        ]
        if not permuted:
            raise BlockError(
                "clusters: chance level cannot be estimated by permuting groups: there are few, and they mix classes."
            )
        noise = [
            np.append(np.nanmean(space.image_scores(order), axis=0), space.global_scores(order)) for order in permuted
        ]
        names = [*METRICS_BY_IMAGE, *OVERALL_METRICS]
        better = {name: name != "davies_bouldin" for name in names}
        means = stats.build_mean_statistic(image_scores)

        def statistic(weights: Floats) -> Floats:
            return np.column_stack([means(weights), space.global_scores(sampled.targets, weights)])

        floors = _average_floors(names, noise)
        ranges = dict.fromkeys(OVERALL_METRICS, LOSS) | {"knn_purity": PROPORTION}
        low, high = zip(*(ranges.get(name, DIFFERENCE) for name in names), strict=True)
        metrics = bootstrap_metrics(self, names, statistic, sampled.units, better, floors, bounds=(low, high))
        images[list(METRICS_BY_IMAGE)] = image_scores
        metrics["linear_probe"] = self._evaluate_linear_probe(sampled, permuted, images)
        metrics["knn_accuracy"] = self._evaluate_knn_probe(run, sampled, permuted, images)
        return {name: metrics[name] for name in CLUSTER_METRICS}

    def _evaluate_linear_probe(self, sampled: Predictions, permuted: list[Labels], images: pd.DataFrame) -> Metric:
        folds = min(self.folds, _count_fewest_groups(sampled.targets, sampled.groups))
        if folds < 2:
            return Metric(None, len(np.unique(sampled.groups)), reason=Reason("single_group"))
        # if groups mix classes, permuting may leave a class in too few groups
        sets = [sampled.targets, *(guess for guess in permuted if _count_fewest_groups(guess, sampled.groups) >= folds)]
        predicted = [
            clusters.predict_by_linear_probe(sampled.embeddings, labels, sampled.groups, folds, self.seed)
            for labels in sets
        ]
        images["probe"] = np.array(sampled.classes)[predicted[0]]
        hits = [guess == labels for guess, labels in zip(predicted, sets, strict=True)]
        floor = float(np.mean([guess.mean() for guess in hits[1:]])) if len(hits) > 1 else None
        return compute_proportion(self, hits[0], sampled.units, floor=floor)

    def _evaluate_knn_probe(
        self, run: Run, sampled: Predictions, permuted: list[Labels], images: pd.DataFrame
    ) -> Metric:
        """Evaluate the labels of the nearest training images; null if these are unknown or missing."""
        try:
            training = run.training()
        except DataError as error:
            why = Reason("no_training_images", why=error.lines[0])
            return Metric(None, len(np.unique(sampled.groups)), reason=why)
        names, known = np.array(sampled.classes), training.embeddings
        predicted = neighbours.predict_by_knn(known, names[training.targets], sampled.embeddings, _PROBE_NEIGHBOURS)
        images["knn"] = predicted
        floor = float(np.mean([np.mean(predicted == names[labels]) for labels in permuted]))
        return compute_proportion(self, predicted == images["target"].to_numpy(), sampled.units, floor=floor)

    def _evaluate_sources(self, space: EmbeddingSpace, sampled: Predictions, images: pd.DataFrame) -> dict[str, Metric]:
        """Compute how images of a class cluster by source, over the classes with several known sources."""
        named = images["source"].where(images["source"] != "")
        several = named.notna() & (named.groupby(images["target"]).transform("nunique") > 1)
        rows = np.flatnonzero(several)
        if not len(rows):
            none = Metric(None, 0, higher_is_better=None, reason=Reason("no_class_of_two_sources"))
            return dict.fromkeys(SOURCE_METRICS, none)
        between, groups, targets = space.euclidean[np.ix_(rows, rows)], sampled.groups[rows], sampled.targets[rows]
        sources = np.unique(sampled.sources[rows], return_inverse=True)[1]
        near = neighbours.find_neighbours(between, groups, self.neighbors, within=targets)

        def score(labels: Labels) -> Floats:
            alone = clusters.silhouettes_within(between, labels, targets)
            return np.column_stack([alone, neighbours.purity(near, labels)])

        image_scores = score(sources)
        noise = [
            stats.nan_mean(score(order), axis=0) for order in self._permute_labels(sources, groups, within=targets)
        ]
        images.loc[rows, list(SOURCE_METRICS)] = image_scores
        floors, statistic = _average_floors(SOURCE_METRICS, noise), stats.build_mean_statistic(image_scores)
        return bootstrap_metrics(self, SOURCE_METRICS, statistic, groups, None, floors, bounds=([-1, 0], 1))

    def _permute_labels(self, labels: Labels, groups: NDArray[np.str_], within: Labels | None = None) -> list[Labels]:
        generator = np.random.default_rng(self.seed)
        return [clusters.permute_labels(labels, groups, generator, within) for __ in range(self.permutations)]


def _count_fewest_groups(labels: Labels, groups: NDArray[np.str_]) -> int:
    return min(len(np.unique(groups[labels == label])) for label in np.unique(labels))


def _average_floors(names: Sequence[str], noise: list[Floats]) -> dict[str, float]:
    means = np.mean(noise, axis=0)
    return {name: float(mean) for name, mean in zip(names, means, strict=True) if np.isfinite(mean)}


def _tabulate_distances(between: Floats, labels: pd.Series[str]) -> pd.DataFrame:
    """Tabulate the mean distance of each two labels, one row and one column each, in alphabetical order."""
    names, codes = np.unique(labels.to_numpy(dtype=str), return_inverse=True)
    table = pd.DataFrame(clusters.mean_distances(between, codes), columns=list(names))
    table.insert(0, "of", names, allow_duplicates=True)
    return table


Reals = NDArray[np.floating]
_MIN_IMAGES = 8  # with fewer images, neighbours are meaningless
_N_SHUFFLES = 5  # shuffled maps for the floor


def build_maps(block: Clusters, predictions: Predictions, name: str) -> Result:
    """Compute a map, its points and its trustworthiness for each method; the true class may be unknown."""
    n = len(predictions)
    if n < _MIN_IMAGES:
        raise BlockError(f"{name}: {n} images are too few for a map; at least {_MIN_IMAGES} are needed.")
    drawn = predictions.take(sample_rows(pd.DataFrame({"label": predictions.targets}), block.limit, block.seed))
    result = Result("clusters", name, len(drawn), predictions.classes)
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
        points = _project(method, drawn.embeddings, perplexity, block)  # (N, 2)
        x, y = points.astype(np.float64).T
        images = {"path": drawn.paths, "target": target, "source": drawn.sources}
        result.tables[f"points{suffix}"] = pd.DataFrame(images | {"x": x, "y": y})
        name, k = f"trustworthiness{suffix.replace('_', '/')}", min(block.trust_neighbors, (result.n - 1) // 2)
        trust = neighbours.trustworthiness(drawn.embeddings, points, k)
        generator = np.random.default_rng(block.seed)
        shuffled = [generator.permutation(points) for __ in range(_N_SHUFFLES)]
        floors = {name: float(np.mean([neighbours.trustworthiness(drawn.embeddings, order, k) for order in shuffled]))}
        mean = stats.build_mean_statistic(trust[:, None])
        result.metrics |= bootstrap_metrics(block, [name], mean, drawn.units, floors=floors, bounds=PROPORTION)
    return result


def _project(method: str, embeddings: Reals, perplexity: float, block: Clusters) -> Reals:
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
