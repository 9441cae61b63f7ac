"""The example of docs/add-a-strategy.md is a strategy that keeps the contract."""

import pytest
import torch
from documented import example_module

import ggl
from ggl.base.errors import InputError
from ggl.optimizers import load_strategy, strategies

DIM = 16


@pytest.fixture
def example(monkeypatch, tmp_path):
    with example_module("add-a-strategy.md", "mysearch", strategies, monkeypatch, tmp_path):
        yield


def load(specification, seed=0):
    return load_strategy(specification, latent_dim=DIM, budget=2000, seed=seed)


def sphere(z):
    return (z - 1).square().sum(1)


def minimize(strategy, generations):
    best = torch.inf
    for _ in range(generations):
        z = strategy.ask()
        strategy.tell(z, sphere(z))
        best = min(best, sphere(z).min().item())
    return best


@pytest.mark.parametrize("name", ["cross-entropy", "mysearch:CrossEntropy"])
def test_it_minimizes_a_sphere(example, name):
    assert minimize(load(name), 40) < 0.01


def test_it_resumes_bit_for_bit(example):
    first, second = load("cross-entropy"), load("cross-entropy", seed=5)
    minimize(first, 3)
    second.load_state_dict(first.state_dict())
    assert minimize(first, 3) == minimize(second, 3)


def test_its_options_are_read_by_their_annotations(example):
    for name in ("cross-entropy", "mysearch:CrossEntropy"):
        strategy = load(f"{name}:population=30,elite=0.1")
        assert (strategy.batch_size, strategy.elite) == (30, 3)
    with pytest.raises(InputError, match="expected a whole number for population"):
        load("cross-entropy:population=1.5")


def test_it_attacks(example):
    data = ggl.load_dataset("fashion-mnist-heldout")
    victim = ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=32, seed=0)
    oracle = ggl.GradientOracle(victim)
    shared = oracle.observe(data.images[:1], data.labels[:1])
    attack = {"prior": ggl.load_prior("fashion-dcgan32"), "budget": 500, "seed": 0}
    searched = ggl.attack(oracle, shared, data.labels[:1], strategy="cross-entropy", **attack)
    drawn = ggl.attack(oracle, shared, data.labels[:1], strategy="random", **attack)
    assert searched.loss < drawn.loss
