"""Orthogonal gradients: exactly orthogonal, of the true norms, the best of the draws; and how they leak."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import ggl
from ggl.base.errors import InputError
from ggl.base.random import stream_seed
from ggl.defenses.client import Client
from ggl.defenses.orthogonal import Orthogonal, draw_orthogonal, loss_after_step
from ggl.gradients import GradientOracle, Sampled
from ggl.gradients.sampled import draw_noise


def small_client(*middle, batch=2, dtype=torch.float32, loss=None):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(1, 3, 3), *middle, nn.Tanh(), nn.Flatten(), nn.Linear(12, 4)).to(dtype)
    images = torch.rand((batch, 1, 4, 4), generator=torch.Generator().manual_seed(1)).to(dtype)
    options = {} if loss is None else {"loss": loss}
    oracle = GradientOracle(body, backend="sequential", **options)
    return Client(oracle, images, torch.arange(batch) % 4)


def share(defense, client, seed=0):
    return defense.share(client, torch.Generator().manual_seed(seed))


def same(a, b):
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def cosine(a, b):
    return torch.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0).item()


@pytest.mark.parametrize("seed", range(5))
def test_every_parameter_is_orthogonal_and_of_the_true_norm(seed):
    """In float32: a relative rounding of 6e-8 a coordinate bounds the cosine by 6e-8."""
    client = small_client()
    gradient, shared = client.gradient(), share(Orthogonal(5), client, seed)
    for name, g in gradient.items():
        assert abs(cosine(shared[name], g)) < 1e-7
        torch.testing.assert_close(shared[name].norm(), g.norm())


@settings(max_examples=60)
@given(exponent=st.integers(-300, 300), size=st.integers(2, 40), seed=st.integers(0, 1000))
def test_it_is_orthogonal_at_every_scale(exponent, size, seed):
    random = torch.Generator().manual_seed(seed)
    g = torch.randn(size, generator=random, dtype=torch.float64)
    drawn = draw_orthogonal({"w": g * 10.0**exponent}, random)["w"] / 10.0**exponent
    assert abs(cosine(drawn, g)) < 1e-14
    assert drawn.norm().item() == pytest.approx(g.norm().item(), rel=1e-12)


def test_of_two_numbers_the_draw_is_the_turned_gradient_with_either_sign():
    g = {"w": torch.tensor([3.0, 4.0])}
    drawn = {tuple(draw_orthogonal(g, torch.Generator().manual_seed(s))["w"].tolist()) for s in range(20)}
    assert drawn == {(4.0, -3.0), (-4.0, 3.0)}


def test_draws_are_uniform_over_the_directions_left():
    """Of g = (1, 0, 0) they turn in a plane: E cos(k φ) = 0, with a standard deviation of √(1 / 2n)."""
    random, n = torch.Generator().manual_seed(0), 4000
    g = {"w": torch.tensor([1.0, 0.0, 0.0])}
    draws = torch.stack([draw_orthogonal(g, random)["w"] for _ in range(n)])
    angle = torch.atan2(draws[:, 1], draws[:, 2])
    for k in (1, 2, 3):
        assert abs((k * angle).cos().mean()) < 4 / math.sqrt(2 * n)
        assert abs((k * angle).sin().mean()) < 4 / math.sqrt(2 * n)


def test_a_single_number_and_a_zero_gradient_are_shared_as_zero():
    g = {"scale": torch.tensor([0.3]), "unused": torch.zeros(2, 3), "empty": torch.zeros(0)}
    drawn = draw_orthogonal(g, torch.Generator().manual_seed(0))
    assert same(drawn, {name: torch.zeros_like(tensor) for name, tensor in g.items()})


def slow_loss(client, gradient, rate):
    model = copy.deepcopy(client.model).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter -= rate * gradient[name].double()
        return nn.functional.cross_entropy(model(client.images.double()), client.labels).item()


@pytest.mark.parametrize(("trials", "rate"), [(1, 0.5), (7, 0.5), (7, 1e-4)])
def test_the_shared_one_is_the_best_of_the_draws(trials, rate):
    client = small_client()
    random = torch.Generator().manual_seed(3)
    draws = [draw_orthogonal(client.gradient(), random) for _ in range(trials)]
    best = min(draws, key=lambda drawn: slow_loss(client, drawn, rate))
    assert same(share(Orthogonal(trials, learning_rate=rate), client, 3), best)


def test_losses_after_a_step_tell_steps_apart_that_float32_does_not():
    client = small_client()
    loss, still = loss_after_step(client, 1e-6), {n: 0 * g for n, g in client.gradient().items()}
    base = slow_loss(client, still, 0)
    assert loss(still) == pytest.approx(base, rel=1e-14)
    slope = sum(g.double().square().sum() for g in client.gradient().values()).item()
    assert base - loss(client.gradient()) == pytest.approx(1e-6 * slope, rel=1e-4)


def test_the_clients_own_loss_decides():
    client = small_client(
        loss=lambda logits, labels: -nn.functional.cross_entropy(logits, labels, reduction="none")
    )
    random = torch.Generator().manual_seed(3)
    draws = [draw_orthogonal(client.gradient(), random) for _ in range(5)]
    worst = max(draws, key=lambda drawn: slow_loss(client, drawn, 0.5))
    assert same(share(Orthogonal(5, learning_rate=0.5), client, 3), worst)


def test_a_loss_that_is_not_a_number_counts_as_infinite():
    client = small_client(nn.BatchNorm2d(3))
    broken = {name: torch.full_like(g, torch.nan) for name, g in client.gradient().items()}
    assert loss_after_step(client, 1.0)(broken) == math.inf


class Noisy(Sampled):
    def forward(self, x):
        noise = self.noise(x)
        self.keep_penalty((x * noise).flatten(1).sum(1))
        return x + noise


def test_losses_are_of_the_noise_and_the_penalty_that_the_clients_gradient_met():
    client = small_client(Noisy())
    model = copy.deepcopy(client.model).double()
    draw_noise(model, stream_seed(client.seed, "client"))
    losses = nn.functional.cross_entropy(model(client.images.double()), client.labels, reduction="none")
    expected = (losses + model[1].take_penalty()).mean().item()
    still = {name: 0 * g for name, g in client.gradient().items()}
    assert loss_after_step(client, 0.1)(still) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_and_the_gradient_are_left_as_they_were(training):
    client = small_client(nn.BatchNorm2d(3))
    client.model.train(training)
    before, gradient = copy.deepcopy(client.model.state_dict()), client.gradient()
    kept, state = {name: g.clone() for name, g in gradient.items()}, torch.get_rng_state()
    first, second = (share(Orthogonal(3), client.after(gradient), 1) for _ in range(2))
    assert same(first, second)
    assert not same(first, share(Orthogonal(3), client.after(gradient), 2))
    assert same(gradient, kept)
    assert same(client.model.state_dict(), before)
    assert client.model.training == training
    assert torch.equal(torch.get_rng_state(), state)


def test_after_another_defense_it_is_orthogonal_to_what_that_shared():
    client = small_client()
    other = {name: torch.ones_like(g) for name, g in client.gradient().items()}
    shared = share(Orthogonal(3), client.after(other))
    assert all(abs(cosine(shared[name], g)) < 1e-7 for name, g in other.items())


def test_the_private_image_is_told_from_its_class_by_orthogonality():
    """An exact membership test: rank 1 of 20 for 5 images, at a thousandth of any other's distance."""
    data = ggl.load_dataset("fashion-mnist-heldout")
    victim = ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=32, seed=0)
    oracle, defense = GradientOracle(victim, backend="layerwise"), Orthogonal(2)
    for k in range(5):
        members = (data.labels == k).nonzero().flatten()[:20]
        client = Client(oracle, data.images[members[k : k + 1]], data.labels[members[k : k + 1]])
        shared = share(defense, client, k)
        scores = oracle.score(data.images[members], client.labels, defense.view(shared, "adaptive"))
        others = torch.cat([scores[:k], scores[k + 1 :]])
        assert scores[k] < 1e-12
        assert scores[k] < 1e-3 * others.min()


def test_who_compares_by_orthogonality():
    shared = share(Orthogonal(1), small_client())
    assert [Orthogonal().view(shared, who).distance for who in Orthogonal.attackers] == [
        None,
        "orthogonal",
        "orthogonal",
    ]


def test_the_name_holds_the_options():
    assert Orthogonal().name == "orthogonal:20,learning_rate=0.0001"
    assert Orthogonal(3, learning_rate=0.5).name == "orthogonal:3,learning_rate=0.5"


def test_options_out_of_range_are_refused():
    with pytest.raises(InputError, match=r"^orthogonal: expected at least 1 trial, found 0$"):
        Orthogonal(0)
    with pytest.raises(InputError, match=r"^orthogonal: expected a learning rate of at least 0, found -1$"):
        Orthogonal(learning_rate=-1.0)
