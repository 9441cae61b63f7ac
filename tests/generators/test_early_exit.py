"""The early exits of MobileStyleGAN: parts of the whole network, and their fit to its pictures."""

import pytest
import torch
from torch.nn import functional as F

from ggl.generators.mobilestylegan.early_exit import EXITS, EarlyExit, _mean_kernel, fitted_names
from ggl.generators.mobilestylegan.network import SynthesisNetwork


@pytest.fixture(scope="module")
def whole():
    """A whole network with reproducible weights."""
    generator = torch.Generator().manual_seed(3)
    network = SynthesisNetwork().requires_grad_(False)
    for name, parameter in network.named_parameters():
        scale = 0.1 if "noise" in name else parameter[0].numel() ** -0.5
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    for name, parameter in network.named_parameters():
        if name.endswith("style.bias"):
            parameter.add_(1)
    return network


@pytest.mark.parametrize("factor", [2, 4, 16])
def test_the_kernel_on_means_is_exact_where_blocks_are_of_one_value(factor):
    generator = torch.Generator().manual_seed(0)
    means, kernel = torch.randn(1, 2, 5, 6, generator=generator), torch.randn(2, 1, 3, 3, generator=generator)
    large = means.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    wanted = F.avg_pool2d(F.conv2d(large, kernel, padding=1, groups=2), factor)
    found = F.conv2d(means, _mean_kernel(kernel, factor), padding=1, groups=2)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def without_details(network):
    """Return a copy that draws blocks of one value behind the map of 8 px: no neighbors, no high bands."""
    plain = SynthesisNetwork().requires_grad_(False)
    plain.load_state_dict(network.state_dict())
    for block in plain.blocks:
        for layer in block.layers:
            layer.noise.zero_()
            layer.depthwise.weight[:, :, [0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]] = 0
        last = block.layers[1].pointwise
        lows = len(last.weight) // 4
        last.weight[lows:] = 0
        last.bias[lows:] = 0
    plain.bands.weight[3:] = 0
    plain.bands.bias[3:] = 0
    return plain


@pytest.mark.parametrize("size", EXITS)
def test_an_exit_draws_the_whole_networks_means_where_it_has_no_details(whole, size):
    plain, style = without_details(whole), torch.randn(1, 512, generator=torch.Generator().manual_seed(1))
    wanted = F.adaptive_avg_pool2d(plain(style), size)
    assert wanted.std() > 0.01
    torch.testing.assert_close(EarlyExit(plain, size)(style), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", EXITS)
def test_an_exits_trunk_is_the_whole_networks_and_is_not_fitted(whole, size):
    network, style = EarlyExit(whole, size), torch.randn(2, 512, generator=torch.Generator().manual_seed(1))
    assert network.trunk == {64: 3, 128: 4}[size]
    maps = network.begin(style, network.trunk)
    assert maps.shape[2] == size // 4
    assert torch.equal(maps, whole.begin(style, network.trunk))
    fitted = fitted_names(network)
    last = network.trunk - 1
    assert not any(name.startswith(("first", *(f"blocks.{i}." for i in range(last)))) for name in fitted)
    assert "coarse.0.layers.1.noise" in fitted
    assert f"blocks.{last}.layers.0.depthwise.weight" in fitted
    assert sum(network.state_dict()[name].numel() for name in fitted) < 10**6


@pytest.mark.parametrize("size", EXITS)
def test_an_exit_makes_the_same_images_from_each_of_its_stages(whole, size):
    network, style = EarlyExit(whole, size), torch.randn(2, 512, generator=torch.Generator().manual_seed(1))
    images = network(style)
    assert images.shape == (2, 3, size, size)
    for stage, shape in enumerate(network.shapes, start=1):
        maps = network.begin(style, stage)
        assert maps.shape[1:] == shape
        assert torch.equal(network.finish(maps, style, stage), images)
