"""Searches that compare the last layer's gradient alone."""

import pytest
import torch
from torch import nn

from ggl.attacks.head import head_alone
from ggl.attacks.inversion import attack, invert
from ggl.base.errors import InputError
from ggl.datasets.loading import load_dataset
from ggl.defenses import load_defense
from ggl.generators import load_prior
from ggl.gradients import GradientOracle, View
from ggl.victims import load_victim

PRIOR = load_prior("fashion-dcgan32")
HEAD = "gauss-newton:layers=head"


@pytest.fixture(scope="module")
def client():
    data = load_dataset("fashion-mnist-heldout")
    oracle = GradientOracle(load_victim("lenet", in_channels=1, num_classes=10, image_size=32, seed=0))
    image, label = data.images[:1], data.labels[:1]
    return oracle, image, label, oracle.observe(image, label)


def test_the_head_alone_finds_the_image(client):
    """Without one backward pass; as near in pixels as a search of the same budget that compares all."""
    oracle, image, label, shared = client
    found = {
        name: attack(oracle, shared, label, prior=PRIOR, strategy=name, latents="free", budget=400)
        for name in (HEAD, "gauss-newton", "random")
    }
    errors = {name: float((result.images - image).square().mean()) for name, result in found.items()}
    assert errors[HEAD] < 0.7 * errors["random"]
    assert errors[HEAD] < 2 * errors["gauss-newton"]


def test_the_winner_is_scored_by_everything_that_was_shared(client):
    oracle, _, label, shared = client
    found = attack(oracle, shared, label, prior=PRIOR, strategy=HEAD, latents="free", budget=200)
    exact = oracle.score(found.images, label, shared, "cosine")
    assert found.loss == pytest.approx(float(exact), rel=1e-4)
    assert found.history[-1][1] < 0.9 * found.loss  # of the head alone


def test_of_restarts_the_best_by_everything_wins(client):
    oracle, _, label, shared = client
    found = attack(oracle, shared, label, prior=PRIOR, strategy=HEAD, latents="free", budget=400, restarts=2)
    assert found.evaluations > 300
    assert found.loss == pytest.approx(float(oracle.score(found.images, label, shared, "cosine")), rel=1e-4)


def test_a_killed_search_of_the_head_resumes(client, tmp_path):
    oracle, _, label, shared = client

    class KilledError(Exception):
        pass

    def run(checkpoint=None, progress=None):
        return attack(
            oracle,
            shared,
            label,
            prior=PRIOR,
            strategy=HEAD,
            budget=200,
            checkpoint=checkpoint,
            progress=progress,
        )

    def kill(done, *_):
        if done > 100:
            raise KilledError

    with pytest.raises(KilledError):
        run(tmp_path / "one", kill)
    assert torch.equal(run(tmp_path / "one").images, run().images)


def test_only_the_head_is_compared(client):
    oracle, _, _, shared = client
    view = head_alone(load_defense("prune:0.9").view(shared), oracle, PRIOR.image_shape)
    assert set(view.goal) == {"fc.weight", "fc.bias"}


def test_a_victim_without_a_linear_head_is_refused(client):
    _, image, _, _ = client
    victim = nn.Sequential(nn.Conv2d(1, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    oracle, label = GradientOracle(victim), torch.tensor([1])
    with pytest.raises(InputError, match="logits are made by a linear layer, found none"):
        attack(oracle, oracle.observe(image, label), label, prior=PRIOR, strategy=HEAD, budget=200)


def test_an_attacker_who_compares_something_else_is_refused(client):
    oracle, _, _, shared = client
    view = View(shared, ignored=frozenset({"fc.weight", "fc.bias"}))
    with pytest.raises(InputError, match="compares the gradient of the last layer, 'fc'"):
        head_alone(view, oracle, PRIOR.image_shape)


def test_an_image_has_no_head(client):
    _, image, label, _ = client
    with pytest.raises(InputError, match="no gradient; leave layers=head out"):
        invert(image, label, prior=PRIOR, strategy="adam:layers=head", budget=100)
