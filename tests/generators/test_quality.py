"""The judge of a prior, against hand-computed and SciPy references."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from ggl.generators.bundled.quality import (
    Classifier,
    ClassSpread,
    accuracy,
    frechet_distance,
    pairwise_distance,
    train_classifier,
)


def rand(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def judge():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Classifier(1, 3).eval()


def stripes(n, seed):
    """Three classes that anyone can tell: horizontal stripes, vertical stripes, noise."""
    labels = torch.arange(n) % 3
    rows = (torch.arange(32) % 4 < 2).float()
    patterns = torch.stack(
        [rows[:, None].expand(32, 32), rows[None].expand(32, 32), torch.full((32, 32), 0.5)]
    )
    images = 0.7 * patterns[labels] + 0.3 * rand(n, 32, 32, seed=seed)
    return images[:, None], labels


def test_pairwise_distance_by_hand():
    """Pixels differ by 1, 3 and 2 everywhere: the mean over the three pairs is 2."""
    images = torch.tensor([0.0, 1.0, 3.0])[:, None, None, None].expand(3, 1, 4, 5)
    assert pairwise_distance(images) == pytest.approx(2)


def test_pairwise_distance_against_numpy():
    images = rand(5, 2, 3, 4)
    flat = images.flatten(1).double().numpy()
    pairs = [np.sqrt(np.mean((flat[i] - flat[j]) ** 2)) for i in range(5) for j in range(i)]
    assert pairwise_distance(images) == pytest.approx(np.mean(pairs), rel=1e-5)


def test_the_spread_ratio_is_the_mean_over_classes():
    assert ClassSpread(torch.tensor([1.0, 4.0]), torch.tensor([0.5, 4.0])).ratio == pytest.approx(0.75)


class Columns(Classifier):
    """Its 32 features are the image's mean columns."""

    def features(self, images):
        return images.mean((1, 2))


def test_frechet_distance_against_scipy():
    judge = Columns(1, 3)
    real, samples = rand(300, 1, 32, 32), rand(400, 1, 32, 32, seed=1) ** 2
    a, b = (judge.features(images).double().numpy() for images in (real, samples))
    covariances = np.cov(a.T), np.cov(b.T)
    root = sqrtm(covariances[0] @ covariances[1]).real
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_distance(judge, real, samples) == pytest.approx(expected, rel=1e-6)


class OneFeature(Classifier):
    """Its only feature is the first pixel."""

    def features(self, images):
        return torch.stack([images[:, 0, 0, 0], torch.zeros(len(images))], dim=1)


def test_frechet_distance_of_normals_by_hand():
    """Between moments (0, 1) and (3, 4) of one feature: 3² + (2 - 1)² = 10."""
    unit = torch.tensor([-1.0, 1.0, -1.0, 1.0]) * math.sqrt(3 / 4)
    first, second = (x[:, None, None, None].expand(4, 1, 32, 32) for x in (unit, 2 * unit + 3))
    assert frechet_distance(OneFeature(1, 3), first, second) == pytest.approx(10, rel=1e-6)


def test_frechet_distance_of_a_set_to_itself_is_zero(judge):
    images = rand(150, 1, 32, 32)
    assert frechet_distance(judge, images, images) == pytest.approx(0, abs=1e-5)


def test_accuracy_counts_the_right_ones(judge):
    images = rand(520, 1, 32, 32)
    with torch.no_grad():
        labels = torch.cat([judge(part).argmax(1) for part in images.split(500)])
    labels[:130] = (labels[:130] + 1) % 3
    assert accuracy(judge, images, labels) == pytest.approx(0.75)


@pytest.fixture(scope="module")
def trained():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ggl.generators.bundled.quality.BATCH", 32)
        return train_classifier(Classifier, *stripes(96, seed=0), epochs=24, seed=0)


@pytest.mark.slow("trains a classifier")
def test_a_classifier_learns_what_is_easy(trained):
    assert accuracy(trained, *stripes(90, seed=1)) >= 0.9
    assert not trained.training


def test_training_a_classifier_is_seeded_and_leaves_the_global_state_alone():
    before = torch.get_rng_state()
    first, second = (train_classifier(Classifier, *stripes(128, seed=0), epochs=1, seed=7) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), before)
