"""Private images, decoys, siblings and noise gradients are what they say."""

import pytest
import torch

import ggl
from ggl.audits.controls import choose_decoys, class_means, noise_gradient, prior_samples
from ggl.base.errors import InputError
from ggl.base.random import stream
from ggl.datasets.picking import pick_private
from ggl.gradients.view import global_norm


@pytest.fixture(scope="module")
def data():
    return ggl.load_dataset("fashion-mnist-heldout")


def test_private_images_are_drawn_evenly_and_by_seed(data):
    rows = pick_private(data.labels, 25, seed=0)
    assert sorted(torch.bincount(data.labels[rows]).tolist()) == [2] * 5 + [3] * 5
    assert len(set(rows.tolist())) == 25
    assert torch.equal(rows, pick_private(data.labels, 25, seed=0))
    assert not torch.equal(rows, pick_private(data.labels, 25, seed=1))
    assert data.labels[pick_private(data.labels, 20, seed=0)].tolist() == [*range(10)] * 2
    with pytest.raises(InputError, match="at most 1000"):
        pick_private(data.labels, 1001, seed=0)


def test_fewer_images_than_classes_are_of_classes_that_the_seed_draws(data):
    drawn = [data.labels[pick_private(data.labels, 6, seed)].tolist() for seed in range(200)]
    assert all(labels == sorted(set(labels)) for labels in drawn)
    counts = torch.tensor(drawn).flatten().bincount(minlength=10)
    assert (counts - 120).abs().max() < 5 * (200 * 0.6 * 0.4) ** 0.5
    classes = torch.arange(1000)
    assert pick_private(classes, 5, 0).max() > 100
    assert pick_private(torch.tensor([7, 7, 7, 2]), 3, 0).tolist()[0] == 3  # every class in the first turn


def test_decoys_are_the_rest_of_the_class(data):
    rows = pick_private(data.labels, 12, seed=0)
    images, labels = data.images[rows], data.labels[rows]
    decoys = choose_decoys(images, labels, data.images, data.labels, seed=0)
    for image, label, others in zip(images, labels, decoys.images, strict=True):
        assert len(others) == 99
        assert not (others == image).flatten(1).all(1).any()
        same = data.images[data.labels == label]
        assert all((same == other).flatten(1).all(1).any() for other in others)


def test_no_private_image_is_a_sibling(data):
    rows = (data.labels == 3).nonzero()[:60, 0]
    images, labels = data.images[rows], data.labels[rows]
    siblings = choose_decoys(images, labels, data.images, data.labels, seed=0).siblings
    assert not any((images == sibling).flatten(1).all(1).any() for sibling in siblings)


def test_a_class_without_a_spare_image_is_an_error():
    images, labels = torch.rand(2, 1, 4, 4), torch.tensor([0, 1])
    with pytest.raises(InputError, match=r"class 1.*give more images of that class.*decoys="):
        choose_decoys(images, labels, torch.cat([images, torch.rand(1, 1, 4, 4)]), torch.tensor([0, 1, 0]), 0)


def test_a_noise_gradient_has_the_same_norm_and_nothing_else():
    like = {"a": torch.randn(30, 30), "b": torch.randn(5)}
    noise = noise_gradient(like, stream(0, "noise"))
    assert float(global_norm(noise)) == pytest.approx(float(global_norm(like)), rel=1e-5)
    cosine = (noise["a"] * like["a"]).sum() / (noise["a"].norm() * like["a"].norm())
    assert abs(float(cosine)) < 5 / 30


def test_prior_samples_and_class_means(data):
    prior = ggl.load_prior("fashion-dcgan32")
    samples = prior_samples(prior, torch.tensor([0, 0]), stream(0, "x"), torch.device("cpu"))
    assert samples.shape == (2, 1, 32, 32)
    assert not torch.equal(samples[0], samples[1])
    stack = torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)])
    assert torch.equal(class_means([stack]), torch.full((1, 1, 2, 2), 0.5))
