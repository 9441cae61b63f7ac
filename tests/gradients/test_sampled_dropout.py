"""Dropout as a client has it: masks by a seed, of the right law, the same in every backend."""

import copy
import math

import pytest
import torch
from gradients.models import seeded
from torch import nn
from torch.nn import functional as F

from ggl.base.errors import InputError
from ggl.gradients import GradientOracle, Trial
from ggl.gradients.dropout import SampledDropout, with_sampled_dropout

BACKENDS = ("sequential", "vmap", "layerwise")


def convolutional(dropout=nn.Dropout, p=0.4, **options):
    """Dropout after a convolution and, used twice, before and after a linear layer's activation."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), dropout(p, **options), nn.Flatten(), nn.Linear(144, 20), nn.Tanh(),
        nn.Dropout(p), nn.Linear(20, 5),
    )  # fmt: skip


class Twice(nn.Module):
    """One dropout module that a forward pass uses twice."""

    def __init__(self):
        super().__init__()
        self.first, self.drop, self.head = nn.Linear(192, 192), nn.Dropout(0.5), nn.Linear(192, 5)

    def forward(self, x):
        return self.head(self.drop(self.first(self.drop(x.flatten(1)))))


MODELS = {
    "dropout": convolutional,
    "in place": lambda: convolutional(inplace=True),
    "channels": lambda: convolutional(nn.Dropout2d),
    "used twice": Twice,
}


def data(batch=2, dtype=torch.float64):
    random = torch.Generator().manual_seed(3)
    images = torch.rand((4, batch, 3, 8, 8), generator=random, dtype=dtype)
    return images, torch.arange(batch) % 5, torch.rand((batch, 3, 8, 8), generator=random, dtype=dtype)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_that_is_kept_and_its_scale(p):
    """Of n = 40,000 numbers the kept share is within 5 σ of 1 - p, σ² = p (1 - p) / n."""
    layer = SampledDropout(p)
    out = layer(torch.ones(4, 100, 100))
    n = out.numel()
    kept = out[out != 0]
    assert abs(len(kept) / n - (1 - p)) < 5 * math.sqrt(p * (1 - p) / n)
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - p)))
    assert not torch.equal(out[0], out[1])


def test_everything_is_dropped_at_one_and_nothing_in_eval_mode():
    x = torch.rand(3, 8)
    assert torch.equal(SampledDropout(1.0)(x), torch.zeros(3, 8))
    assert torch.equal(SampledDropout(0.5).eval()(x), x)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [(nn.Dropout1d, (2, 40, 6)), (nn.Dropout2d, (2, 40, 6)), (nn.Dropout2d, (2, 40, 3, 2)),
     (nn.Dropout3d, (2, 40, 3, 2, 2))],
)  # fmt: skip
def test_whole_channels_are_dropped(kind, shape):
    out = with_sampled_dropout(nn.Sequential(kind(0.5)))(torch.ones(shape)).flatten(2)
    assert torch.equal(out.amin(2), out.amax(2))
    assert set(out.unique().tolist()) == {0.0, 2.0}


def test_the_uses_of_one_layer_have_masks_of_their_own_and_every_pass_the_same():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, x):
            return torch.stack([self.drop(x), self.drop(x)])

    model = with_sampled_dropout(Both())
    first, again = model(torch.ones(2, 50)), model(torch.ones(2, 50))
    assert torch.equal(first, again)
    assert not torch.equal(first[0], first[1])


def test_a_gradient_follows_from_the_seed():
    oracle = GradientOracle(seeded(convolutional).double())
    assert oracle.is_sampled
    _, labels, private = data()
    first, again, other = (oracle.observe(private, labels, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(again[name], g) for name, g in first.items())
    assert all(not torch.equal(other[name], g) for name, g in first.items() if name != "6.bias")


@pytest.mark.parametrize("kind", [nn.Dropout, nn.Dropout2d])
def test_the_gradient_is_that_with_the_masks_applied_by_hand(kind):
    model = seeded(lambda: convolutional(kind)).double()
    _, labels, private = data()
    found = GradientOracle(model).observe(private, labels, seed=5)

    oracle = GradientOracle(model, backend="sequential")
    masks = []
    for layer in (1, 5):
        oracle._reference.model[layer].register_forward_hook(
            lambda module, given, out: masks.append((out / given[0]).detach())
        )
    oracle.observe(private, labels, seed=5)
    for mask in masks:
        scale = 1 / 0.6
        assert ((mask.abs() < 1e-9) | ((mask - scale).abs() < 1e-9)).all()
    conv, linear, head = model[0], model[3], model[6]
    x = (conv(private) * masks[0]).flatten(1)
    loss = F.cross_entropy(head(torch.tanh(linear(x)) * masks[1]), labels)
    for (name, parameter), g in zip(model.named_parameters(), found.values(), strict=True):
        (expected,) = torch.autograd.grad(loss, parameter, retain_graph=True)
        torch.testing.assert_close(g, expected, msg=name)


def test_the_gradients_expectation_is_that_of_torchs_own_dropout():
    """Means over n draws of a linear victim's gradient: their difference is below 6 standard errors."""
    model = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 3))).double()
    image = torch.rand((1, 3, 2, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    label, n = torch.tensor([1]), 400
    oracle = GradientOracle(model, backend="sequential")
    ours = torch.stack([oracle.observe(image, label, seed=s)["2.weight"] for s in range(n)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        losses = [F.cross_entropy(model(image), label) for _ in range(n)]
    theirs = torch.stack([torch.autograd.grad(loss, model[2].weight)[0] for loss in losses])
    error = ((ours.var(0) + theirs.var(0)) / n).sqrt()
    assert ((ours.mean(0) - theirs.mean(0)).abs() < 6 * error).all()


@pytest.mark.parametrize("trial", [Trial(), Trial(draws=3), Trial(redrawn=True)])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", MODELS)
def test_the_backends_agree(name, batch, trial):
    model = seeded(MODELS[name]).double()
    images, labels, private = data(batch)
    shared = GradientOracle(model).observe(private, labels, seed=4)
    expected, *others = (
        GradientOracle(model, backend=backend).score(images, labels, shared, "l2", trial)
        for backend in BACKENDS
    )
    for found in others:
        torch.testing.assert_close(found, expected)


def test_auto_takes_the_layerwise_backend():
    oracle = GradientOracle(seeded(convolutional))
    images, labels, private = data(dtype=torch.float32)
    oracle.score(images, labels, oracle.observe(private, labels))
    assert oracle.backend == "layerwise"


def test_an_attacker_does_not_know_the_clients_masks():
    """The private image itself does not score zero; more draws bring it nearer in expectation."""
    oracle = GradientOracle(seeded(convolutional).double())
    images, labels, private = data()
    shared = oracle.observe(private, labels, seed=4)
    assert oracle.score(private[None], labels, shared)[0] > 1e-3
    fixed = oracle.score(images, labels, shared)
    torch.testing.assert_close(oracle.score(images[:2], labels, shared), fixed[:2])
    redrawn = oracle.score(images, labels, shared, trial=Trial(redrawn=True))
    assert not torch.isclose(redrawn, fixed, rtol=1e-3).any()


@pytest.mark.parametrize("how", ["eval", "p"])
def test_inactive_dropout_does_nothing(how):
    model = seeded(convolutional).double() if how == "eval" else seeded(lambda: convolutional(p=0.0)).double()
    model = model.eval() if how == "eval" else model
    bare = nn.Sequential(*(layer for layer in model if not isinstance(layer, nn.Dropout)))
    images, labels, private = data()
    oracle, without = GradientOracle(model), GradientOracle(bare)
    assert not oracle.is_sampled
    found, expected = (o.observe(private, labels) for o in (oracle, without))
    assert all(torch.equal(a, b) for a, b in zip(found.values(), expected.values(), strict=True))
    assert torch.equal(oracle.score(images, labels, found), without.score(images, labels, expected))


def test_the_victim_stays_as_it_is_and_its_parameters_keep_their_names():
    model = seeded(convolutional)
    before = copy.deepcopy(model)
    oracle = GradientOracle(model)
    assert [type(layer) for layer in model] == [type(layer) for layer in before]
    assert [name for name, _ in oracle.model.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert not model._forward_pre_hooks


def test_a_layer_under_two_names_is_one_layer():
    drop = nn.Dropout(0.5)
    model = with_sampled_dropout(nn.Sequential(drop, nn.Linear(4, 4), drop))
    assert isinstance(model[0], SampledDropout)
    assert model[0] is model[2]


class Own(nn.Dropout):
    pass


class Attention(nn.Module):
    """Attention that drops weights by itself, over four tokens."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(48, 2, dropout=0.3, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x)[0]


KINDS = {
    "alpha": lambda: nn.AlphaDropout(0.5),
    "channels of alpha": lambda: nn.FeatureAlphaDropout(0.5),
    "a subclass": lambda: Own(0.5),
    "attention": Attention,
}


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_of_other_kinds_draws_from_the_global_stream_by_seed(kind):
    model = seeded(
        lambda: nn.Sequential(
            nn.Flatten(), nn.Unflatten(1, (4, 48)), KINDS[kind](), nn.Flatten(), nn.Linear(192, 5)
        )
    )
    _, labels, private = data(dtype=torch.float32)
    oracle = GradientOracle(model)
    first, again, other = (oracle.observe(private, labels, seed=seed) for seed in (1, 1, 2))
    assert oracle.is_sampled
    assert all(torch.equal(again[name], g) for name, g in first.items())
    assert any(not torch.equal(other[name], g) for name, g in first.items())
    quiet = GradientOracle(model.eval())
    quiet.observe(private, labels)
    assert not quiet.is_sampled


def test_channels_of_an_unbatched_input_are_refused():
    model = nn.Sequential(nn.Dropout3d(0.5), nn.Flatten(), nn.Linear(192, 5))
    _, labels, private = data(dtype=torch.float32)
    with pytest.raises(InputError) as error:
        GradientOracle(model).observe(private, labels)
    assert str(error.value) == (
        "expected an input of 5 dimensions to a dropout of whole channels, found shape (2, 3, 8, 8); use the "
        "Dropout layer that fits it, or call eval()"
    )
