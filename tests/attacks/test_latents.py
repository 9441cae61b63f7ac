"""Latent rules: where candidates come to lie, and what it costs them."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from ggl.attacks.latents import load_latents
from ggl.base.errors import InputError, UnknownNameError
from ggl.generators import Prior, load_prior

DIM = 8


class Plain(Prior):
    """A prior whose images don't matter."""

    name, licence, latent_dim, image_shape = "plain", "MIT", DIM, (1, 1, DIM)

    def decode(self, z, labels=None):
        return z.sigmoid().unflatten(1, self.image_shape)


def normals(n=2000):
    return torch.randn(n, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("rule", ["free", "shell:0.5", "kld:0.1", "tv:0.1"])
def test_a_rule_without_a_placement_moves_nothing(rule):
    z = normals()
    assert torch.equal(load_latents(rule).place(z), z)


@pytest.mark.parametrize("rule", ["free", "tanh", "box:2"])
def test_a_rule_without_a_penalty_costs_nothing(rule):
    assert torch.equal(load_latents(rule).penalty(Plain(), normals()), torch.zeros(2000, dtype=torch.float64))


def test_tanh_is_tanh():
    assert torch.equal(load_latents("tanh").place(normals()), normals().tanh())


@given(st.floats(-50, 50), st.floats(0.1, 5))
def test_a_box_holds_everything_and_leaves_what_is_inside(x, bound):
    z = torch.tensor([[x]], dtype=torch.float64)
    placed = load_latents(f"box:{bound}").place(z)
    assert placed.abs().item() <= bound * (1 + 1e-12)
    if abs(x) <= bound:
        assert torch.equal(placed, z)


@pytest.mark.parametrize(("x", "placed"), [(2.5, 1.5), (-2.5, -1.5), (4.0, 0.0), (6.0, -2.0), (9.0, 1.0)])
def test_a_box_reflects_by_hand(x, placed):
    assert load_latents("box:2").place(torch.tensor([[x]])).item() == placed


def test_a_box_is_continuous_and_of_slope_one():
    z = torch.linspace(-9, 9, 2001, dtype=torch.float64)[:, None].requires_grad_()
    placed = load_latents("box:2").place(z)
    assert (placed.diff(dim=0).abs() < 0.0091).all()
    (slope,) = torch.autograd.grad(placed.sum(), z)
    assert torch.equal(slope.abs(), torch.ones_like(slope))


def test_the_shell_is_the_priors_own_penalty():
    torch.testing.assert_close(
        load_latents("shell:0.3").penalty(Plain(), normals()), 0.3 * Plain().penalty(normals())
    )


def test_the_ridge_is_minus_the_log_density_but_for_a_constant():
    z = normals(5)
    normal = torch.distributions.Normal(torch.zeros_like(z), torch.ones_like(z))
    expected = 2 * (normal.log_prob(torch.zeros_like(z)) - normal.log_prob(z)).sum(1)
    torch.testing.assert_close(load_latents("ridge:0.25").penalty(Plain(), z), 0.25 * expected)


def test_the_divergence_is_that_of_two_gaussians():
    """Against torch.distributions, on the mean and standard deviation of each latent's entries."""
    z = 0.5 + 2 * normals(5)
    own = torch.distributions.Normal(z.mean(1), z.std(1, correction=0))
    standard = torch.distributions.Normal(torch.zeros(5, dtype=z.dtype), torch.ones(5, dtype=z.dtype))
    expected = torch.distributions.kl_divergence(own, standard)
    torch.testing.assert_close(load_latents("kld:0.1").penalty(Plain(), z), 0.1 * expected)


def variation(image):
    """Mean absolute difference of horizontal neighbors plus that of vertical ones, pixel by pixel."""
    height, width = image.shape[1:]
    pixels = image.tolist()
    across = [abs(row[x] - row[x + 1]) for plane in pixels for row in plane for x in range(width - 1)]
    down = [
        abs(plane[y][x] - plane[y + 1][x])
        for plane in pixels
        for y in range(height - 1)
        for x in range(width)
    ]
    return sum(across) / max(1, len(across)) + sum(down) / max(1, len(down))


@pytest.mark.parametrize("shape", ["1x5x4", "3x4x6", "1x1x5", "1x5x1", "3x1x1"])
def test_the_total_variation_is_that_of_a_loop_over_pixels(shape):
    prior = load_prior(f"pixels:{shape}").double()
    z = torch.randn(3, prior.latent_dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.tensor([0.2 * variation(image) for image in prior.decode(z)], dtype=torch.float64)
    rule = load_latents("tv:0.2")
    torch.testing.assert_close(rule.penalty(prior, z), expected)
    assert torch.equal(rule.penalty(prior, z, prior.decode(z)), rule.penalty(prior, z))


def test_the_total_variation_is_that_of_the_images_given():
    """Of a ramp from 0 to 1 over 5 pixels: 1/4 a step across, nothing down."""
    ramp = torch.linspace(0, 1, 5).expand(2, 1, 3, 5)
    penalty = load_latents("tv:1").penalty(Plain(), torch.zeros(2, DIM), ramp)
    torch.testing.assert_close(penalty, torch.full((2,), 0.25))


@given(st.floats(0, 1), st.floats(0.01, 4))
def test_the_total_variation_ignores_a_shift_and_is_linear_in_contrast_and_weight(shift, factor):
    images = torch.rand(2, 3, 6, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = torch.zeros(2, DIM, dtype=torch.float64)
    base = load_latents("tv:1").penalty(Plain(), z, images)
    torch.testing.assert_close(load_latents("tv:1").penalty(Plain(), z, images + shift), base)
    torch.testing.assert_close(load_latents("tv:1").penalty(Plain(), z, factor * images), factor * base)
    torch.testing.assert_close(load_latents(f"tv:{factor}").penalty(Plain(), z, images), factor * base)


def test_the_total_variation_is_differentiable():
    prior = load_prior("pixels:1x4x4").double()
    z = torch.randn(2, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 2
    assert torch.autograd.gradcheck(lambda z: load_latents("tv:1").penalty(prior, z), z.requires_grad_())


def test_rules_join_in_order():
    rule = load_latents("tanh+box:0.5+shell:0.1+kld:0.2")
    z = normals()
    placed = load_latents("box:0.5").place(z.tanh())
    assert torch.equal(rule.place(z), placed)
    expected = load_latents("shell:0.1").penalty(Plain(), placed) + load_latents("kld:0.2").penalty(
        Plain(), placed
    )
    torch.testing.assert_close(rule.penalty(Plain(), placed), expected)


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ("box", "'box': expected a number above 0"),
        ("box:-1", "expected a number above 0"),
        ("box:nan", "expected a number above 0"),
        ("shell:inf", "expected a number above 0"),
        ("kld:much", "'kld:much': expected a number above 0"),
        ("tv", "'tv': expected a number above 0"),
        ("tv:0", "'tv:0': expected a number above 0"),
        ("tanh:2", "tanh takes no number"),
    ],
)
def test_bad_numbers_are_refused(rule, reason):
    with pytest.raises(InputError, match=reason):
        load_latents(rule)


@pytest.mark.parametrize("rule", ["shel:0.1", "", "free+", "boxes:2"])
def test_unknown_rules_are_refused(rule):
    with pytest.raises(
        UnknownNameError, match=r"no latents rule is named .* known: free, shell, ridge, kld, tv, tanh, box"
    ):
        load_latents(rule)
