"""The plane in which points of many dimensions vary most, by principal components."""

from __future__ import annotations

import numpy as np


def principal_plane(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    The first two principal components. The largest entry of each is positive, so that pictures do not turn over.

    :param points: (n, dim), of at least two dimensions
    :return: the points' mean, (dim,); the components, (2, dim); and the share of the variance of each, (2,)
    """
    points = np.asarray(points, dtype=np.float64)
    center = points.mean(axis=0)
    variances, axes = np.linalg.eigh(np.cov(points.T))
    rows = axes[:, :-3:-1].T
    signs = np.sign(rows[np.arange(2), np.abs(rows).argmax(axis=1)])
    return center, rows * signs[:, None], variances[:-3:-1] / max(float(variances.sum()), np.finfo(float).tiny)
