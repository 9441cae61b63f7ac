"""Tuning a generator's weights: what its option says, what a step does, what is refused."""

import pytest
import torch

from ggl.attacks import tuning
from ggl.attacks.course import SearchResult
from ggl.attacks.inversion import attack, attack_many, invert
from ggl.attacks.latents import load_latents
from ggl.attacks.objectives import ImageMatch
from ggl.attacks.target import Target
from ggl.attacks.tuning import tuned
from ggl.audits.audit import audit
from ggl.base.errors import InputError
from ggl.generators import Prior, load_prior
from ggl.gradients import GradientOracle
from ggl.victims import load_victim


class Scaled(Prior):
    """Two latents times two weights, as an image of two pixels."""

    name, licence, latent_dim, image_shape = "scaled", "MIT", 2, (1, 1, 2)

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([0.5, 0.25]), requires_grad=False)
        self.unused = torch.nn.Parameter(torch.ones(3), requires_grad=False)

    def decode(self, z, labels=None):
        return (self.weight * z).unflatten(1, self.image_shape)


class Detached(Scaled):
    def decode(self, z, labels=None):
        return (self.weight.detach() * z).unflatten(1, self.image_shape)


class Held(Scaled):
    """Its weights are a buffer."""

    def __init__(self):
        super().__init__()
        weight = self.weight.data
        del self.weight, self.unused
        self.register_buffer("weight", weight)
        self.register_buffer("counter", torch.tensor(1))


def start(prior, target, k=1):
    """Return what searches found: latents of ones, and the loss of their images to the target."""
    z = torch.ones(1, 2)
    images = prior.decode(z)
    loss = (images - target).square().mean().item()
    found = SearchResult(images, z, torch.zeros(1, dtype=torch.long), loss, [(10, loss)], 10, 0)
    return [found] * k


@pytest.mark.parametrize("kind", [Scaled, Held])
def test_a_step_of_adam_by_hand(kind):
    """Adam's first step is the rate, against the sign of the gradient: (0.5, 0.25) goes towards (1, 0)."""
    prior, target = kind(), torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    (result,) = tuned(prior, start(prior, target), ImageMatch(target[None]), load_latents("free"), 0.1, 2)
    torch.testing.assert_close(result.images.flatten(), torch.tensor([0.6, 0.15]))
    assert result.loss == pytest.approx((0.4**2 + 0.15**2) / 2)
    losses = [loss for _, loss in result.history]
    assert losses == pytest.approx([0.15625, 0.15625, 0.09125])
    assert [done for done, _ in result.history] == [10, 11, 12]
    assert (result.evaluations, result.backward_passes) == (12, 2)
    assert torch.equal(prior.weight, torch.tensor([0.5, 0.25]))
    assert not prior.weight.requires_grad
    assert prior.weight.grad is None


def test_the_best_step_counts():
    """A rate that leaps past the target leaves what the search found."""
    prior, target = Scaled(), torch.tensor([0.6, 0.25]).view(1, 1, 1, 2)
    found = start(prior, target)
    (result,) = tuned(prior, found, ImageMatch(target[None]), load_latents("free"), 50.0, 3)
    assert torch.equal(result.images, found[0].images)
    assert result.loss == found[0].loss


def test_searches_are_tuned_each_for_itself(monkeypatch):
    targets = torch.rand(3, 1, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    prior, rule = Scaled(), load_latents("free")
    found = [start(prior, target)[0] for target in targets]
    told = []
    together = tuned(prior, found, ImageMatch(targets), rule, 0.05, 20, lambda *step: told.append(step[:2]))
    assert told == [(30 + 3 * k, 90) for k in range(1, 21)]
    monkeypatch.setattr(tuning, "LARGEST", 1)
    one_by_one = tuned(prior, found, ImageMatch(targets), rule, 0.05, 20, lambda *step: told.append(step[:2]))
    assert told[20:] == [(30 + k, 90) for k in range(1, 61)]
    for k, (one, other) in enumerate(zip(together, one_by_one, strict=True)):
        torch.testing.assert_close(one.images, other.images)
        assert one.loss < 0.1 * found[k].loss


def test_a_prior_without_weights_or_gradient_is_refused():
    target = torch.ones(1, 1, 1, 2)
    with pytest.raises(InputError, match="prior scaled: expected images with a gradient in its weights"):
        tuned(Detached(), start(Detached(), target), ImageMatch(target[None]), load_latents("free"), 0.1, 1)
    pixels = load_prior("pixels:1x1x2")
    with pytest.raises(InputError, match=r"prior pixels:1x1x2: expected weights to tune, found none"):
        invert(target, torch.tensor([0]), prior=pixels, strategy="adam:tune=0.1", budget=10)


@pytest.fixture(scope="module")
def setting():
    prior = load_prior("fashion-dcgan32")
    victim = load_victim("lenet", in_channels=1, num_classes=10, image_size=32, seed=0)
    images = prior.decode(torch.randn(6, 64, generator=torch.Generator().manual_seed(1)), torch.arange(6))
    return prior, victim, images


def test_an_attack_spends_half_on_latents_and_half_on_weights(setting):
    prior, victim, images = setting
    before = {name: tensor.clone() for name, tensor in prior.state_dict().items()}
    oracle, label = GradientOracle(victim), torch.tensor([2])
    shared = oracle.observe(images[2:3], label)
    told = {"prior": prior, "latents": "free"}
    half = attack(oracle, shared, label, strategy="adam:starts=1", budget=8, **told)
    whole = attack(oracle, shared, label, strategy="adam:starts=1,tune=0.0003", budget=16, **told)
    assert torch.equal(half.latents, whole.latents)
    assert (whole.evaluations, whole.backward_passes) == (16, 16)
    assert whole.history[: len(half.history)] == half.history
    assert whole.loss < half.loss
    assert all(torch.equal(tensor, before[name]) for name, tensor in prior.state_dict().items())
    (alone,) = attack_many(
        oracle, [Target("attack", shared, label)], strategy="adam:starts=1,tune=0.0003", budget=16, **told
    )
    assert torch.equal(alone.images, whole.images)


def test_an_audit_labels_the_contrast(setting):
    prior, victim, images = setting
    others = torch.randn(18, 64, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(18) % 6
    told = {"prior": prior, "ceiling_budget": 8, "decoys": (prior.decode(others, labels), labels)}
    report = audit(victim, images[:2], torch.arange(2), strategies=["random:tune=0.0003"], budget=32, **told)
    (cell,) = report.to_dict()["results"]
    assert cell["strategy"] == "random:tune=0.0003"
    with pytest.raises(InputError, match="budget of 8 evaluations is below one generation"):
        audit(victim, images[:2], torch.arange(2), strategies=["gauss-newton:tune=0.1"], budget=16, **told)
