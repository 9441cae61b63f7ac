"""Randomness that no layer of ours draws: by a seed, the same in every backend, global streams left alone."""

import random
import sys
import types

import numpy as np
import pytest
import torch
import torchvision
from gradients.models import seeded
from torch import nn
from torch.nn import functional as F

import ggl
from ggl.attacks.objectives import exact_oracle
from ggl.base.errors import InputError, UserCodeError
from ggl.base.random import GlobalStreams, global_stream, stream_seed
from ggl.gradients import BackendWarning, GradientOracle, LocalTraining, Trial, View
from ggl.gradients.residuals import is_separable
from ggl.i2f.jacobian import Jacobian


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.middle, self.head = nn.Linear(48, 16), nn.Linear(16, 16), nn.Linear(16, 5)

    def hidden(self, x):
        return torch.tanh(self.first(x.flatten(1)))

    def forward(self, x):
        return self.head(self.noisy(self.hidden(x)))


class Functional(Net):
    def noisy(self, h):
        return F.dropout(h, 0.5, self.training)


class Always(Net):
    def noisy(self, h):
        return F.dropout(h, 0.5)


class Depth(Net):
    """torchvision's stochastic depth, by image."""

    def noisy(self, h):
        return h + torchvision.ops.stochastic_depth(torch.tanh(self.middle(h)), 0.5, "row", self.training)


class DropPath(Net):
    """timm's."""

    def noisy(self, h):
        if not self.training:
            return h
        kept = h.new_empty((len(h), 1)).bernoulli_(0.5)
        return h + torch.tanh(self.middle(h)) * kept / 0.5


class Noise(Net):
    def noisy(self, h):
        return h + 0.1 * torch.randn_like(h) + 0.1 * torch.rand(h.shape, dtype=h.dtype)


class Arrays(Net):
    """Noise of NumPy's."""

    def noisy(self, h):
        return h + torch.from_numpy(np.random.standard_normal(h.shape)).to(h)


class Numbers(Net):
    """A number of Python's."""

    def noisy(self, h):
        return h * (1 + random.random())


VICTIMS = {kind.__name__: kind for kind in (Functional, Always, Depth, DropPath, Noise, Arrays, Numbers)}


def data(batch=2):
    drawn = torch.Generator().manual_seed(3)
    images = torch.rand((4, batch, 3, 4, 4), generator=drawn, dtype=torch.float64)
    return images, torch.arange(batch) % 5, torch.rand((batch, 3, 4, 4), generator=drawn, dtype=torch.float64)


def same(a, b):
    return all(torch.equal(b[name], g) for name, g in a.items())


@pytest.mark.parametrize("name", VICTIMS)
def test_a_gradient_follows_from_the_seed_and_the_global_streams_stay(name):
    model = seeded(VICTIMS[name]).double().train()
    _, labels, private = data()
    found = GlobalStreams()
    oracle = GradientOracle(model)
    first, again, other = (oracle.observe(private, labels, seed=seed) for seed in (1, 1, 2))
    # Checks of types in this suite draw from Python's own stream.
    assert found.moved() <= {"python"}
    assert same(first, again)
    assert not same(first, other)
    assert same(first, GradientOracle(model).observe(private, labels, seed=1))
    assert oracle.is_sampled


@pytest.mark.parametrize("name", ["Functional", "Depth", "DropPath"])
def test_victims_that_are_quiet_in_eval_mode_are_as_any_other(name):
    _, labels, private = data()
    oracle = GradientOracle(seeded(VICTIMS[name]).double().eval(), backend="layerwise")
    oracle.observe(private, labels)
    assert not oracle.is_sampled


@pytest.mark.parametrize("name", ["Functional", "Depth", "Noise"])
def test_the_gradient_is_torchs_with_the_streams_at_the_seed_s_place(name):
    model = seeded(VICTIMS[name]).double().train()
    _, labels, private = data()
    found = GradientOracle(model).observe(private, labels, seed=5)
    with global_stream(stream_seed(stream_seed(5, "client"), "global")):
        loss = F.cross_entropy(model(private), labels)
    for parameter, g in zip(model.parameters(), found.values(), strict=True):
        (expected,) = torch.autograd.grad(loss, parameter, retain_graph=True, materialize_grads=True)
        torch.testing.assert_close(g, expected)


@pytest.mark.parametrize("trial", [Trial(), Trial(draws=3), Trial(redrawn=True)])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", VICTIMS)
def test_all_candidates_meet_one_noise_in_every_backend(name, batch, trial):
    model = seeded(VICTIMS[name]).double().train()
    images, labels, private = data(batch)
    shared = GradientOracle(model).observe(private, labels, seed=4)
    found = {b: GradientOracle(model, backend=b).score(images, labels, shared, trial=trial)
             for b in ("sequential", "vmap")}  # fmt: skip
    torch.testing.assert_close(found["vmap"], found["sequential"])
    if not trial.redrawn:
        alone = GradientOracle(model, backend="sequential").score(images[2:3], labels, shared, trial=trial)
        torch.testing.assert_close(alone[0], found["sequential"][2])


def test_auto_says_why_it_is_not_layerwise():
    images, labels, private = data()
    oracle = GradientOracle(seeded(Functional).double().train())
    shared = oracle.observe(private, labels)
    with pytest.warns(
        BackendWarning, match=r"by the vmap backend \(layerwise: its forward pass draws from the"
    ):
        oracle.score(images, labels, shared)
    assert not is_separable(oracle, View(shared))
    with pytest.raises(
        InputError, match=r"^the layerwise backend can't take this victim: its forward pass draws"
    ):
        GradientOracle(oracle.model, backend="layerwise").score(images, labels, shared)


def test_a_contrast_s_oracle_draws_as_the_attacker_s():
    images, labels, private = data()
    oracle = GradientOracle(seeded(Functional).double().train(), backend="sequential")
    shared = oracle.observe(private, labels)
    found = exact_oracle(oracle).score(images, labels, shared)
    torch.testing.assert_close(found, oracle.score(images, labels, shared))


def test_local_steps_and_jacobians_of_noise_are_refused():
    _, labels, private = data()
    model = seeded(Functional).double().train()
    with pytest.raises(
        InputError, match=r"^2 local steps of a victim that draws noise at every step are not"
    ):
        GradientOracle(model, local=LocalTraining(2, 0.1)).observe(private, labels)
    with pytest.raises(
        InputError, match=r"found its forward pass that draws noise on every pass: the influence"
    ):
        Jacobian(model, private, labels)
    assert len(Jacobian(model.eval(), private, labels)) == 2


class Generator(Net):
    """Noise of a generator of the module's own, which no seed reaches."""

    random = torch.Generator()

    def noisy(self, h):
        return h + torch.randn(h.shape, generator=self.random, dtype=h.dtype)


class Counting(Net):
    """A state that every pass changes."""

    passes = 0

    def noisy(self, h):
        self.passes += 1
        return h * self.passes


@pytest.mark.parametrize("kind", [Generator, Counting])
def test_what_no_seed_reaches_is_refused(kind):
    _, labels, private = data()
    with pytest.raises(
        InputError, match=r"found another one in the next pass: it keeps a state, or draws from"
    ):
        GradientOracle(seeded(kind).double()).observe(private, labels)


class Raising(Net):
    passes = 0

    def noisy(self, h):
        torch.rand(3)
        self.passes += 1
        if self.passes > 2:
            raise ValueError("enough")
        return h


def test_the_streams_are_set_back_after_an_error():
    _, labels, private = data()
    oracle = GradientOracle(seeded(Raising).double())
    oracle.observe(private, labels)
    found = GlobalStreams()
    oracle.observe(private, labels)
    with pytest.raises(
        UserCodeError, match=r"^the victim raised ValueError: enough \(test_global_noise.py, "
    ):
        oracle.observe(private, labels)
    assert found.moved() <= {"python"}


def test_a_victim_s_own_seed_of_the_global_stream_stays_its_own(monkeypatch):
    def build(in_channels, num_classes, image_size):
        torch.manual_seed(0)
        np.random.seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes))

    module = types.ModuleType("own.networks")
    module.build = build
    monkeypatch.setitem(sys.modules, "own.networks", module)
    found = GlobalStreams()
    ggl.load_victim("own.networks:build", in_channels=1, num_classes=2, image_size=8)
    assert found.moved() <= {"python"}
