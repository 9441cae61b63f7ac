"""Whichever way a layer's factors are read, inner products and norms are those of the built gradients."""

import pytest
import torch
from gradients.models import MODELS, seeded
from gradients.test_backends import population
from torch import nn
from torch.nn import functional as F

from ggl.gradients import GradientOracle
from ggl.gradients.convolutions import ConvolutionWeight
from ggl.gradients.factors import Factors, LinearWeight

RANDOM = torch.Generator().manual_seed(0)


def draw(*shape):
    return torch.randn(shape, generator=RANDOM, dtype=torch.float64)


def convolution(c, o, kernel, stride, padding, dilation, groups, size, batch=2):
    inputs = draw(5, batch, c, *size)
    weight = torch.zeros(o, c // groups, *kernel, dtype=torch.float64)
    shape = F.conv2d(inputs.flatten(0, 1), weight, None, stride, padding, dilation, groups).shape
    errors = draw(5, batch, *shape[1:])
    return ConvolutionWeight(inputs, errors, kernel, stride, padding, dilation, groups)


KINDS = {
    "few channels": lambda: convolution(1, 6, (3, 3), (1, 1), (1, 1), (1, 1), 1, (9, 8)),
    "few positions": lambda: convolution(24, 32, (3, 3), (2, 2), (1, 1), (1, 1), 1, (4, 4), 1),
    "shared pixels": lambda: convolution(24, 32, (3, 3), (1, 1), (1, 1), (1, 1), 1, (3, 3), 1),
    "grouped": lambda: convolution(8, 6, (3, 2), (2, 3), (2, 1), (1, 2), 2, (7, 8)),
    "depthwise": lambda: convolution(6, 6, (3, 3), (1, 1), (0, 0), (2, 2), 6, (8, 8)),
    "one position": lambda: LinearWeight(draw(5, 1, 7), draw(5, 1, 6)),
    "tokens": lambda: LinearWeight(draw(5, 4, 7), draw(5, 4, 6)),
    "many tokens": lambda: LinearWeight(draw(5, 60, 7), draw(5, 60, 6)),
}


@pytest.mark.parametrize("elements", [1, 2**20])
@pytest.mark.parametrize("kind", KINDS)
def test_moments_are_those_of_the_built_gradients(kind, elements, monkeypatch):
    monkeypatch.setattr("ggl.gradients.factors.BLOCK_ELEMENTS", elements)
    factors: Factors = KINDS[kind]()
    built = factors.build()
    target = draw(*built.shape[1:])
    keep = target > 0.3
    dot, square = (built * target).flatten(1).sum(1), built.flatten(1).square().sum(1)
    kept = (built * keep).flatten(1).square().sum(1)
    for found, expected in zip(factors.moments(target), (dot, square, square), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    for found, expected in zip(factors.moments(target, keep), (dot, square, kept), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if isinstance(KINDS[kind](), ConvolutionWeight)])
def test_every_way_to_build_and_every_ghost_norm_agree(kind):
    factors = KINDS[kind]()
    apart = factors.build_as_groups()
    torch.testing.assert_close(factors.build_from_patches(), apart)
    square = apart.flatten(1).square().sum(1)
    torch.testing.assert_close(factors.ghost_square_from_pixels(), square)
    torch.testing.assert_close(factors.ghost_square(), square)


def test_the_kinds_above_take_every_way():
    ways = {kind: make().ghost_elements() is not None for kind, make in KINDS.items()}
    assert {kind for kind, ghost in ways.items() if ghost} >= {
        "few positions",
        "shared pixels",
        "one position",
    }
    assert not {"few channels", "many tokens", "depthwise"} & {kind for kind, ghost in ways.items() if ghost}
    patches, pixels = KINDS["few positions"](), KINDS["shared pixels"]()
    assert patches._patch_products() < patches._pixel_products()
    assert pixels._pixel_products() < pixels._patch_products()


def test_scores_through_batch_norm_are_differentiable_in_the_candidates():
    model = seeded(MODELS["batch norm in eval mode"]).double()
    images, labels, private = population(2, torch.float64)
    shared = GradientOracle(model, backend="sequential").observe(private, labels)
    slopes = []
    for backend in ("sequential", "layerwise"):
        x = images.clone().requires_grad_()
        GradientOracle(model, backend=backend).score(x, labels, shared, "cosine").sum().backward()
        slopes.append(x.grad)
    torch.testing.assert_close(slopes[1], slopes[0])


def test_bfloat16_scores_through_batch_norm_are_near():
    model = seeded(MODELS["batch norm in eval mode"])
    images, labels, private = population(1, torch.float32)
    exact, rough = (GradientOracle(model, precision=p) for p in ("float32", "bfloat16"))
    shared = exact.observe(private, labels)
    found, expected = (oracle.score(images, labels, shared) for oracle in (rough, exact))
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.0)


def test_branches_from_the_images_are_all_read():
    """Two first layers, and one that is never used: its gradient is zero."""

    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right, self.unused = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Linear(4, 4)
            self.head = nn.Linear(4, 5)

        def forward(self, x):
            return self.head((torch.tanh(self.left(x)) * torch.tanh(self.right(x))).mean((2, 3)))

    model = seeded(Branches).double()
    images, labels, private = population(2, torch.float64)
    shared = GradientOracle(model, backend="sequential").observe(private, labels)
    found, expected = (
        GradientOracle(model, backend=backend).score(images, labels, shared)
        for backend in ("layerwise", "sequential")
    )
    torch.testing.assert_close(found, expected)
