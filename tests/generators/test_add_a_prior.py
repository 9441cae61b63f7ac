"""The example of docs/add-a-prior.md is a prior that keeps the contract."""

import pytest
from documented import example_module

import ggl
from ggl.base.errors import InputError
from ggl.generators import priors
from ggl.generators.contract import check_prior

DATA = "fashion-mnist-heldout"


@pytest.fixture
def example(monkeypatch, tmp_path):
    with example_module("add-a-prior.md", "mypriors", priors, monkeypatch, tmp_path):
        yield


@pytest.mark.parametrize("name", [f"pca:{DATA}", f"mypriors:PCA:{DATA},components=16"])
def test_it_keeps_the_contract(example, name):
    prior = ggl.load_prior(name)
    assert prior.latent_dim == (16 if "16" in name else 32)
    assert [f for f in check_prior(prior) if f.problem] == []


def test_the_network_of_several_inputs_keeps_it_too(example):
    prior = ggl.load_prior("mypriors:Mine")
    assert prior.num_classes == 10
    assert [f for f in check_prior(prior) if f.problem] == []


def test_what_it_needs_is_said(example):
    with pytest.raises(InputError, match="expected a value of data after the colon"):
        ggl.load_prior("pca")


def test_a_search_through_it_comes_nearer_than_its_mean(example):
    prior = ggl.load_prior(f"pca:{DATA}")
    data = ggl.load_dataset(DATA)
    victim = ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=32, seed=0)
    oracle = ggl.GradientOracle(victim)
    image, label = data.images[:1], data.labels[:1]
    found = ggl.attack(
        oracle, oracle.observe(image, label), label, prior=prior, strategy="cma-es", budget=500, seed=0
    )
    mean = prior.mean.view(1, 1, 32, 32)
    assert (found.images - image).square().mean() < (mean - image).square().mean()
