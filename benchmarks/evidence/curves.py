"""Reading a curve: when it reaches a score for good, and what it has at a given cost."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from scipy import stats


def reached_at(x: Sequence[float], y: Sequence[float], target: float) -> float | None:
    """The x from which on y stays at or above the target, between points by a straight line.

    The last crossing and not the first: a noisy curve crosses early by luck. None if the last
    point is below the target.
    """
    below = [i for i, value in enumerate(y) if value < target]
    if not below:
        return float(x[0])
    i = below[-1]
    if i == len(y) - 1:
        return None
    return x[i] + (x[i + 1] - x[i]) * (target - y[i]) / (y[i + 1] - y[i])


class Reading(NamedTuple):
    """A score at a budget. `ended`: the run had already ended, with this score and less spent."""

    value: float
    ended: bool


def value_at(x: Sequence[float], y: Sequence[float], budget: float) -> Reading:
    """y where x equals the budget, between points by a straight line; past the end the last y."""
    # One part in a thousand: equal budgets that were summed in different orders.
    if budget > x[-1] * (1 + 1e-3):
        return Reading(float(y[-1]), True)
    for i in range(1, len(x)):
        if x[i] >= budget:
            share = (budget - x[i - 1]) / (x[i] - x[i - 1]) if x[i] > x[i - 1] else 1.0
            return Reading(y[i - 1] + share * (y[i] - y[i - 1]), False)
    return Reading(float(y[-1]), False)


class Mean(NamedTuple):
    """A mean over seeds and its standard error, sample deviation / √n; None for a single seed."""

    mean: float
    error: float | None
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        """95% confidence interval by Student's t; all numbers for a single seed."""
        if self.error is None:
            return -math.inf, math.inf
        half = float(stats.t.ppf(0.975, self.n - 1)) * self.error
        return self.mean - half, self.mean + half

    @property
    def beyond_noise(self) -> bool:
        """Whether it differs from 0 by more than 2 standard errors."""
        return self.error is not None and abs(self.mean) > 2 * self.error


def mean_of(values: Sequence[float]) -> Mean | None:
    """Mean and standard error; None of nothing."""
    n = len(values)
    if not n:
        return None
    mean = math.fsum(values) / n
    if n == 1:
        return Mean(mean, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return Mean(mean, math.sqrt(variance / n), n)
