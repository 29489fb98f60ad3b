"""Chains of things to be done in a hidden order: what worlds of others that are made of them share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise, product

import numpy as np

from irl_ray.data.imports import Episode

UNSEEN = {(0, 1), (1, 2), (2, 3)}  # transitions that no demonstration shows; 0-1-2-3 is made of them
ORDERS = tuple(
    order for order in product(range(4), repeat=3) if all(a != b and (a, b) not in UNSEEN for a, b in pairwise(order))
)


def successes(attempt: Callable[[int], Episode | None], count: int, seed: int) -> Iterator[Episode]:
    """So many episodes of a demonstrator that does not always succeed.

    Args:
        attempt: one episode of a seed; None where it failed.
        count: of episodes.
        seed: from which those of the episodes derive.
    """
    made, number = 0, 0
    while made < count:
        episode = attempt(int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))
        number += 1
        if episode is not None:
            made += 1
            yield episode
