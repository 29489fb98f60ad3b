"""What a handful of runs tells: medians and quartiles, interquartile means, bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Curve = tuple[np.ndarray, np.ndarray]  # episodes, success

SMOOTH = 5  # updates over which success is averaged


def interquartile_mean(values: Sequence[float]) -> float:
    """Mean of the middle half (Agarwal et al. 2021, arXiv 2108.13264); runs at the edges count in part."""
    ordered = np.sort(np.asarray(values, float))
    edges = np.arange(len(ordered) + 1) / len(ordered)
    weight = np.clip(np.minimum(edges[1:], 0.75) - np.maximum(edges[:-1], 0.25), 0, None)
    return float((ordered * weight).sum() / weight.sum())


def bootstrap_interval(
    values: Sequence[float],
    statistic: Callable[[Sequence[float]], float] = interquartile_mean,
    level: float = 0.95,
    draws: int = 2000,
) -> tuple[float, float]:
    """Percentile-bootstrap interval of a statistic over runs; the same for the same values."""
    random, values = np.random.default_rng(0), np.asarray(values, float)
    found = [statistic(values[random.integers(len(values), size=len(values))]) for _ in range(draws)]
    low, high = np.quantile(found, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def smoothed(curve: Curve) -> Curve:
    """Success as the mean of the last `SMOOTH` updates up to each."""
    episodes, success = curve
    total = np.concatenate([[0.0], np.cumsum(success)])
    last = np.arange(1, len(success) + 1)
    first = np.maximum(0, last - SMOOTH)
    return episodes, (total[last] - total[first]) / (last - first)


def success_after(curve: Curve, episodes: float) -> float:
    """Mean success of the last `SMOOTH` updates within so many episodes; NaN if the run is shorter by over 5 %."""
    seen, success = smoothed(curve)
    if seen[-1] < 0.95 * episodes:
        return float("nan")
    within = np.searchsorted(seen, episodes, side="right")
    return float(success[max(0, within - 1)])


def episodes_to_half(curve: Curve, least: float = 0.01) -> float:
    """Episodes until success first reaches half of its final value; NaN where the final one is below `least`."""
    episodes, success = smoothed(curve)
    if success[-1] < least:
        return float("nan")
    return float(episodes[(success >= success[-1] / 2).argmax()])


def quartiles(curves: Sequence[Curve], points: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Episodes [points] and the (25, 50, 75) percentiles of success over runs [3, points]."""
    last = min(episodes[-1] for episodes, _ in curves)
    first = max(episodes[0] for episodes, _ in curves)
    grid = np.linspace(first, last, points)
    values = np.stack([np.interp(grid, *curve) for curve in curves])
    return grid, np.percentile(values, (25, 50, 75), axis=0)
