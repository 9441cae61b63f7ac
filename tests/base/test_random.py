"""Random streams: independent by name, the same for ever, global state left alone."""

import random

import numpy as np
import pytest
import torch

from ggl.base.random import numpy_stream, stream, stream_seed

NAMES = [
    (0,),
    (1,),
    (-1,),
    (0, "a"),
    (0, "b"),
    (0, "a", "b"),
    (0, "a/b"),
    (0, "a", 1),
    (0, "a", 2),
    (1, "a"),
    (10, "a"),
]


def test_the_same_name_gives_the_same_stream():
    assert torch.equal(torch.rand(5, generator=stream(3, "x")), torch.rand(5, generator=stream(3, "x")))
    assert np.array_equal(numpy_stream(3, "x").random(5), numpy_stream(3, "x").random(5))


def test_other_names_give_other_seeds():
    assert len({stream_seed(*names) for names in NAMES}) == len(NAMES)


def test_streams_of_other_names_are_uncorrelated():
    """The correlation of n independent pairs has a standard deviation of 1 / sqrt(n); five are allowed."""
    n = 10_000
    draws = torch.stack([torch.randn(n, generator=stream(*names)) for names in NAMES])
    correlations = torch.corrcoef(draws) - torch.eye(len(NAMES))
    assert correlations.abs().max() < 5 / n**0.5


def test_seeds_fit_into_63_bits():
    assert all(0 <= stream_seed(seed, "a") < 2**63 for seed in range(200))
    assert max(stream_seed(seed, "a") for seed in range(200)) > 2**62


def test_values_stay_as_they_were():
    """Pinned, so that no release moves anyone's results: ggl 0.1, torch 2.15, NumPy 2.4."""
    assert stream_seed(0, "cma-es") == 6724238929171184835
    assert torch.rand(1, generator=stream(0, "a")).item() == pytest.approx(0.732784628868103, abs=1e-7)
    assert numpy_stream(0, "a").random() == pytest.approx(0.040573552372722865, abs=1e-15)


def test_global_random_states_are_left_alone():
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    torch.rand(3, generator=stream(0, "a"))
    numpy_stream(0, "a").random(3)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]
