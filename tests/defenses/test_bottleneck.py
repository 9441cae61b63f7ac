"""Sampled layers: their divergence, their noise, the gradient of their penalty, and how they are put in."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from ggl.base.errors import InputError
from ggl.base.random import stream_seed
from ggl.defenses.bottleneck import (
    Before,
    ConvolutionalBottleneck,
    VariationalBottleneck,
    divergence,
    layers_holding,
    put_before,
)
from ggl.defenses.precode import CVB, Precode
from ggl.gradients import GradientOracle, Trial
from ggl.gradients.sampled import draw_noise
from ggl.victims import load_victim

CLASSES, SIDE = 5, 8
STANDARD = Normal(torch.tensor(0.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64))


def victim(name):
    return load_victim(name, in_channels=3, num_classes=CLASSES, image_size=SIDE)


def images(n, seed=0, dtype=torch.float32):
    return torch.rand(n, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def built(build, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build()


def test_the_divergence_by_hand():
    """KL(N(3, 2²) ‖ N(0, 1)) = (9 + 4 - 1) / 2 - log 2."""
    found = divergence(torch.tensor([0.0, 3.0]), torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(found, torch.tensor([0.0, 6 - math.log(2)]))


@settings(max_examples=60)
@given(st.floats(-50, 50), st.floats(1e-6, 50))
def test_the_divergence_is_that_of_torchs_distributions(mean, deviation):
    mu, sigma = torch.tensor(mean, dtype=torch.float64), torch.tensor(deviation, dtype=torch.float64)
    torch.testing.assert_close(
        divergence(mu, sigma), kl_divergence(Normal(mu, sigma), STANDARD), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("encoded", [-200.0, -90.0, 0.0, 200.0])
def test_the_penalty_and_its_derivative_are_finite_far_out(encoded):
    """In float32 the softplus of -200 is 0."""
    layer, x = built(lambda: VariationalBottleneck(2, 2, 1.0)), torch.full((1, 2), encoded).requires_grad_()
    penalty = layer.penalty(torch.zeros(1, 2), layer.spread(x))
    (derivative,) = torch.autograd.grad(penalty.sum(), x)
    assert penalty.isfinite().all()
    assert derivative.isfinite().all()


def sharpened(bottleneck, mean, deviation):
    """Make a variational bottleneck draw N(mean, deviation²) itself, whatever it reads."""
    with torch.no_grad():
        for layer, bias in ((bottleneck.mean, mean), (bottleneck.deviation, deviation.expm1().log())):
            layer.weight.zero_()
            layer.bias.copy_(bias)
        bottleneck.decoder.weight.copy_(torch.eye(len(mean)))
        bottleneck.decoder.bias.zero_()
    return bottleneck


def test_a_bottleneck_draws_the_distribution_that_it_encodes():
    """Of n draws the mean has a standard deviation of σ / √n and the variance one of σ² √(2 / n)."""
    n, mean, deviation = 20_000, torch.tensor([0.0, -2.0, 5.0]), torch.tensor([1.0, 0.25, 3.0])
    layer = sharpened(VariationalBottleneck(3, 3, 0.0), mean, deviation)
    draws = layer(torch.zeros(n, 3)).detach()
    assert ((draws.mean(0) - mean).abs() < 5 * deviation / math.sqrt(n)).all()
    assert ((draws.var(0) / deviation.square() - 1).abs() < 5 * math.sqrt(2 / n)).all()
    off_diagonal = torch.corrcoef(draws.T) - torch.eye(3)
    assert (off_diagonal.abs() < 5 / math.sqrt(n)).all()


BUILDERS = {
    "variational": (lambda: VariationalBottleneck(12, 4, 0.1), (5, 12)),
    "variational, maps": (lambda: VariationalBottleneck(12, 4, 0.1), (5, 3, 2, 2)),
    "variational, tokens": (lambda: VariationalBottleneck(12, 4, 0.1), (5, 3, 12)),
    "convolutional": (lambda: ConvolutionalBottleneck(3, 4, 5, 0.1), (5, 3, 6, 7)),
}


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("training", [True, False])
def test_every_seed_draws_anew_in_train_and_in_eval_mode(name, training):
    build, shape = BUILDERS[name]
    layer, x = built(build).train(training), torch.rand(shape)
    first, again, other = (draw_noise(layer, seed) or layer(x) for seed in (0, 0, 1))
    assert first.shape == x.shape
    assert torch.equal(first, again)
    assert (first != other).float().mean() > 0.9
    same_rows = layer(x[:1].expand(shape))
    assert not torch.equal(same_rows[0], same_rows[1])


@pytest.mark.parametrize("name", BUILDERS)
def test_the_penalty_is_one_number_an_image(name):
    build, shape = BUILDERS[name]
    layer = built(build)
    layer(torch.rand(shape))
    assert layer.take_penalty().shape == (5,)


def test_a_convolutional_bottleneck_refuses_what_is_no_map():
    with pytest.raises(InputError) as error:
        ConvolutionalBottleneck(4, 8, 3, 0.1)(torch.rand(2, 6, 4))
    assert str(error.value) == (
        "cvb: expected activations (n, channels, height, width) at the bottleneck, found shape (2, 6, 4); "
        "choose another layer"
    )


def test_convolutional_deviations_are_clipped():
    layer = ConvolutionalBottleneck(3, 4, 3, 0.1)
    spread = layer.spread(torch.tensor([-1e3, -5.0, 0.0, 5.0, 1e3]))
    torch.testing.assert_close(spread, F.softplus(torch.tensor([-5.0, -5.0, 0.0, 5.0, 5.0])))


def by_hand(wrapped, bottleneck, forward, penalty, x, y, seed):
    """Return the gradient of CE + β KL, the network written out and the noise that of the seed."""
    draw_noise(wrapped, stream_seed(seed, "client"))
    parameters = dict(wrapped.named_parameters())
    logits, mean, deviation = forward(parameters, x, bottleneck.noise)
    divergences = kl_divergence(Normal(mean, deviation), STANDARD)
    loss = F.cross_entropy(logits, y) + bottleneck.beta * penalty(divergences).mean()
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))


def precode_mlp(p, x, noise):
    def linear(name, a):
        return F.linear(a, p[f"{name}.weight"], p[f"{name}.bias"])

    a = torch.relu(linear("body.3", torch.relu(linear("body.1", x.flatten(1)))))
    mean = linear("fc.bottleneck.mean", a)
    deviation = F.softplus(linear("fc.bottleneck.deviation", a))
    z = mean + noise(mean) * deviation
    return linear("fc.layer", linear("fc.bottleneck.decoder", z)), mean, deviation


def cvb_lenet(p, x, noise):
    def convolve(name, a, stride, padding):
        return F.conv2d(a, p[f"{name}.weight"], p.get(f"{name}.bias"), stride, padding)

    a = torch.sigmoid(convolve("body.0", x, 2, 2))
    mean = convolve("body.2.bottleneck.mean", a, 1, 1)
    deviation = F.softplus(convolve("body.2.bottleneck.deviation", a, 1, 1).clip(-5, 5))
    a = convolve("body.2.bottleneck.decoder", mean + noise(mean) * deviation, 1, 0)
    a = torch.sigmoid(convolve("body.4", torch.sigmoid(convolve("body.2.layer", a, 2, 2)), 1, 2))
    return F.linear(a.flatten(1), p["fc.weight"], p["fc.bias"]), mean, deviation


@pytest.mark.parametrize(
    ("name", "defense", "layer", "forward", "penalty"),
    [
        ("mlp", Precode(6, beta=0.3), "fc", precode_mlp, lambda kl: kl.sum(1) / math.log(2)),
        ("lenet", CVB(3, beta=0.3), "body.2", cvb_lenet, lambda kl: kl.sum(1).mean((1, 2))),
    ],
)
def test_the_gradient_is_that_of_the_loss_with_the_divergence(name, defense, layer, forward, penalty):
    wrapped = defense.wrap(victim(name)).double()
    x, y = images(3, dtype=torch.float64), torch.tensor([0, 4, 2])
    observed = GradientOracle(wrapped, backend="sequential").observe(x, y, seed=7)
    bottleneck = wrapped.get_submodule(layer).bottleneck
    expected = by_hand(wrapped, bottleneck, forward, penalty, x, y, seed=7)
    assert observed.keys() == expected.keys()
    for key, gradient in expected.items():
        torch.testing.assert_close(observed[key], gradient, rtol=1e-9, atol=1e-14)


WRAPPED = {
    **{
        f"precode {name}": (name, Precode(16))
        for name in ("lenet", "mlp", "convnet", "resnet18-groupnorm", "vit")
    },
    "precode on tokens": ("vit", Precode(16, layer="blocks.1.mlp.0")),
    "cvb lenet": ("lenet", CVB(3)),
    "cvb convnet": ("convnet", CVB()),
    "cvb resnet18-groupnorm": ("resnet18-groupnorm", CVB()),
}


@pytest.mark.slow("three backends")
@pytest.mark.parametrize("case", WRAPPED)
def test_the_backends_agree(case):
    name, defense = WRAPPED[case]
    wrapped, y = defense.wrap(victim(name)), torch.tensor([3])
    shared = GradientOracle(wrapped, backend="sequential").observe(images(1, seed=1), y, seed=5)
    oracles = [GradientOracle(wrapped, backend=backend) for backend in ("sequential", "vmap", "layerwise")]
    for trial in (Trial(), Trial(draws=3)):
        expected, *others = (oracle.score(images(2), y, shared, "l2", trial) for oracle in oracles)
        for found in others:
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("backend", ["sequential", "vmap", "layerwise"])
def test_an_attacker_may_leave_out_the_penalty_and_redraw_the_noise(backend):
    """A β of 0 is no penalty; another population meets other noise, and the same one the same."""
    penalized, free = (Precode(6, beta=beta).wrap(victim("mlp")) for beta in (0.5, 0.0))
    y = torch.tensor([1])
    shared = GradientOracle(penalized, backend=backend).observe(images(1, seed=1), y)

    def score(model, x, trial):
        return GradientOracle(model, backend=backend).score(x, y, shared, "l2", trial)

    plain = score(free, images(3), Trial())
    torch.testing.assert_close(score(penalized, images(3), Trial(regularized=False)), plain)
    assert not torch.isclose(score(penalized, images(3), Trial()), plain, rtol=1e-3).any()
    redrawn = score(free, images(3), Trial(redrawn=True))
    assert torch.equal(redrawn, score(free, images(3), Trial(redrawn=True)))
    fewer = score(free, images(3)[:2], Trial(redrawn=True))
    assert not torch.isclose(fewer, redrawn[:2]).any()
    torch.testing.assert_close(score(free, images(3)[:2], Trial()), plain[:2])


def small(dtype=torch.float32, training=False):
    model = built(lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 6), nn.ReLU(), nn.Linear(6, 3)))
    return model.to(dtype).train(training)


def build():
    return VariationalBottleneck(6, 2, 0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("training", [True, False])
def test_wrapping_leaves_the_victim_as_it_was_and_keeps_its_weights(dtype, training):
    model = small(dtype, training)
    before, modules = copy.deepcopy(model.state_dict()), list(model.modules())
    wrapped = put_before(model, "3", build, 0)
    for parameter in wrapped.parameters():
        assert parameter.dtype == dtype
        parameter.data.add_(1)
    assert list(model.modules()) == modules
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert all(module.training == training for module in wrapped.modules())
    assert isinstance(wrapped[3], Before)
    assert list(wrapped.state_dict())[2:4] == ["3.bottleneck.mean.weight", "3.bottleneck.mean.bias"]
    torch.testing.assert_close(wrapped[3].layer.weight.data - 1, before["3.weight"])


def test_a_part_of_the_victim_may_be_in_another_mode():
    model = small(training=True)
    model[3].eval()
    wrapped = put_before(model, "3", build, 0)
    assert wrapped.training
    assert not any(module.training for module in wrapped[3].modules())


def test_the_seed_defines_the_bottleneck_and_the_global_random_state_is_left_alone():
    state = torch.get_rng_state()
    first, again, other = (put_before(small(), "3", build, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert [key for key in first if not torch.equal(first[key], other[key])] == [
        f"3.bottleneck.{layer}.{kind}"
        for layer in ("mean", "deviation", "decoder")
        for kind in ("weight", "bias")
    ]


def test_the_whole_victim_can_be_the_layer():
    wrapped = put_before(nn.Linear(6, 3), "", build, 0)
    assert isinstance(wrapped, Before)
    assert wrapped(torch.rand(4, 6)).shape == (4, 3)


def test_an_unknown_layer_is_told_with_the_nearest_one():
    with pytest.raises(InputError) as error:
        put_before(victim("mlp"), "body.33", build, 0)
    assert str(error.value).startswith("no layer is named 'body.33'; did you mean 'body.3'?")


def test_the_layers_of_a_bottleneck_are_no_place_for_another():
    wrapped = put_before(small(), "3", build, 0)
    assert list(layers_holding(wrapped, nn.Linear)) == ["", "1", "3", "3.layer"]
