"""The color prior's networks: folding changes nothing, stages fit together, every place is scored."""

import pytest
import torch
from torch import nn

from ggl.generators.bundled.encoded_network import Encoder, FeatureDiscriminator, ResidualGenerator
from ggl.generators.bundled.feature_network import FeatureNetwork


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def settled(network):
    """Return the network with statistics and affine maps that no initialization has."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.5)
    return network.eval()


@pytest.fixture
def generator():
    return settled(ResidualGenerator(5, 3, 3, (12, 8, 6, 4)))


def test_the_class_scales_and_shifts_every_layer(generator):
    """By hand for the layer of 8 px: relu((1 + scale) · normalized + shift)."""
    x, labels = torch.randn(2, 12, 4, 4), torch.tensor([2, 0])
    layer = generator.grow[0]
    scale, shift = layer.affine.table.weight[labels][:, :, None, None].split(8, dim=1)
    normalized = layer.norm(layer.convolution(x))
    torch.testing.assert_close(layer(x, labels), torch.relu((1 + scale) * normalized + shift))


@torch.no_grad()
def test_folding_changes_no_image(generator):
    z, labels = torch.randn(6, 5), torch.arange(6) % 3
    expected = generator(z, labels)
    generator.fold()
    assert sum(isinstance(module, nn.BatchNorm2d) for module in generator.modules()) == 1
    torch.testing.assert_close(generator(z, labels), expected, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("stage", [1, 2, 3, 4])
def test_a_stage_begun_and_finished_is_the_image(generator, stage):
    z, labels = torch.randn(3, 5), torch.tensor([0, 1, 2])
    maps = generator.begin(z, labels, stage)
    assert maps.shape == (3, (12, 8, 6, 4)[stage - 1], 2 ** (stage + 1), 2 ** (stage + 1))
    assert torch.equal(generator.finish(maps, labels, stage), generator(z, labels))


@torch.no_grad()
def test_a_frozen_copy_sees_the_same_and_learns_nothing():
    network = settled(FeatureNetwork(3, 10))
    images = torch.rand(4, 3, 32, 32)
    frozen = network.folded()
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())
    found, expected = frozen.maps(images * 2 - 1), network.maps(images * 2 - 1)
    assert [x.shape[1:] for x in found] == [(64, 16, 16), (128, 8, 8), (256, 4, 4)]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(network(images), network.logits(expected[-1]))


def test_every_head_scores_sixteen_places():
    discriminator = FeatureDiscriminator(10, 3, FeatureNetwork.widths, 8)
    images = torch.rand(2, 3, 32, 32)
    scores = discriminator(images, FeatureNetwork(3, 10).maps(images), torch.tensor([3, 7]))
    assert [score.shape for score in scores] == [(2, 4, 4)] * 4


def test_an_encoder_gives_means_and_bounded_variances():
    mean, log_variance = Encoder(5, 3, (4, 6, 8))(1e3 * torch.randn(7, 3, 32, 32))
    assert mean.shape == log_variance.shape == (7, 5)
    assert log_variance.min() >= -10
    assert log_variance.max() <= 0
