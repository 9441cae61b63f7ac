"""Scoring holds no gradient per candidate."""

from multiprocessing import get_context

import pytest

from ggl.benchmarks.speed.oracle import Variant, memory_growth

PARAMETER_MEBIBYTES = 2_154_890 * 4 / 2**20
"""Of the ConvNet for 32 px grey images."""


@pytest.mark.slow("measures a process of its own")
def test_peak_memory_does_not_grow_with_candidates_times_parameters():
    with get_context("spawn").Pool(1) as pool:
        grown = pool.apply(memory_growth, ("convnet", "layerwise", 64, 32, Variant()))
    assert 0 < grown < 0.25 * 64 * PARAMETER_MEBIBYTES
