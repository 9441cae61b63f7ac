"""The attack that measures what the influence function predicts."""

import numpy as np
import pytest
import torch

import ggl
from ggl.i2f.influence import influence
from ggl.i2f.measured import invert_pixels, measured_errors
from ggl.i2f.perturbations import Draws


@pytest.fixture(scope="module")
def setting():
    torch.manual_seed(0)
    victim = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.Sigmoid(), torch.nn.Linear(32, 4)
    ).double()
    images = torch.rand(3, 1, 8, 8, dtype=torch.float64)
    return victim, images, torch.tensor([0, 1, 3])


def test_an_undefended_gradient_gives_the_image_away_from_noise(setting):
    victim, images, labels = setting
    oracle = ggl.GradientOracle(victim, backend="sequential")
    shared = oracle.observe(images[:1], labels[:1])
    start = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(1))
    found = invert_pixels(oracle, shared, labels[:1], start, evaluations=400)
    assert (found - images[0]).abs().max() < 1e-3
    assert (start - images[0]).abs().max() > 0.3


def test_small_noise_moves_the_perfect_attacker_by_what_is_predicted(setting):
    """The prediction is of first order: for small noise, and little damping, it is what comes out."""
    victim, images, labels = setting
    for defense in ("noise:1e-5", "prune:0.02"):
        measured = measured_errors(victim, images, labels, defense, evaluations=800)
        predicted = influence(victim, images, labels, defense, damping=1e-9)
        errors = [measured[predicted.defense, i, 0] for i in range(3)]
        assert predicted.converged.all()
        assert errors == pytest.approx(predicted.exact_rmse[:, 0], rel=0.1)
        assert (np.array(errors) >= 0.9 * predicted.bound_rmse[:, 0]).all()


def test_the_attack_begins_at_noise_of_its_own_for_every_draw(setting):
    victim, images, labels = setting
    one = measured_errors(victim, images[:1], labels[:1], "none", Draws(2), attack="noise", evaluations=1)
    assert one["none", 0, 0] != one["none", 0, 1]
    again = measured_errors(victim, images[:1], labels[:1], "none", Draws(2), attack="noise", evaluations=1)
    assert again == one


def test_progress(setting):
    victim, images, labels = setting
    seen = []
    report = lambda done, planned: seen.append((done, planned))  # noqa: E731
    measured_errors(victim, images[:2], labels[:2], "none", evaluations=1, progress=report)
    assert seen == [(1, 2), (2, 2)]


@pytest.mark.slow("a long search of pixels")
def test_ig_finds_less_the_stronger_the_noise(setting):
    victim, _, _ = setting
    coarse = torch.rand(3, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    images, labels = coarse.repeat_interleave(4, 2).repeat_interleave(4, 3), torch.tensor([0, 1, 3])
    mean = {}
    for defense in ("none", "noise:0.01", "noise:1"):
        found = measured_errors(victim, images, labels, defense, Draws(2), attack="ig", evaluations=200)
        assert list(found) == [(defense, image, draw) for image in range(3) for draw in range(2)]
        mean[defense] = np.mean(list(found.values()))
    assert mean["none"] < 0.05 < mean["noise:0.01"] < mean["noise:1"]
    assert next(victim.parameters()).dtype == torch.float64


def test_progress_of_ig(setting):
    victim, images, labels = setting
    seen = []
    report = lambda done, planned: seen.append((done, planned))  # noqa: E731
    measured_errors(victim, images, labels, "none", attack="ig", evaluations=3, progress=report)
    assert seen[-1][0] == seen[-1][1] > 0
