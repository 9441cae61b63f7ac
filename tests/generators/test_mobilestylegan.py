"""MobileStyleGAN: its parts by slow oracles, its prior with a stand-in network, its weights by OpenVINO.

`mobilestylegan_reference.npz` holds OpenVINO's images of `latents(2)`, clamped to [0, 1], averaged to 32 px
and rounded to 16 bits: openvino 2026.4.1 on a CPU, float32, by
`GGL_CACHE=... python tests/generators/test_mobilestylegan.py tests/generators/mobilestylegan_reference.npz`.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import ggl.generators.published  # noqa: F401
from ggl.base.errors import InputError, WeightsError
from ggl.base.weight_files import weight_catalog
from ggl.generators.contract import check_prior
from ggl.generators.mobilestylegan import prior as mobilestylegan
from ggl.generators.mobilestylegan.early_exit import EXITS
from ggl.generators.mobilestylegan.network import MappingNetwork, Pointwise, Separable, inverse_haar
from ggl.generators.mobilestylegan.prior import MobileStyleGAN

ENTRY = weight_catalog["mobilestylegan-ffhq"]
REFERENCE = Path(__file__).with_name("mobilestylegan_reference.npz")
fetched = pytest.mark.skipif(not ENTRY.is_here, reason="needs: ggl weights fetch mobilestylegan-ffhq")


def latents(n):
    """Return n latents of about the prior's length, the same on every machine."""
    phases = torch.arange(1, n + 1)[:, None] * torch.arange(1, 513)
    return (2**0.5 * torch.sin(phases.double())).float()


def openvino_images(z):
    """Return OpenVINO's own images (n, 3, 1024, 1024), clamped to [0, 1]."""
    core = pytest.importorskip("openvino").Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    mapping, synthesis = (
        core.compile_model(str(ENTRY.folder / f"mobilestylegan_ffhq_{name}.xml"), "CPU", settings)
        for name in ("mnet", "snet")
    )
    images = [torch.from_numpy(synthesis([mapping([row.numpy()])[0]])[0].copy()) for row in z.split(1)]
    return (torch.cat(images) / 2 + 0.5).clamp(0, 1)


def filled(module, seed=7):
    """Return the module with reproducible weights."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5
    return module.double().requires_grad_(False)


def test_the_inverse_haar_transform_by_hand():
    """Low 5, rows differ by 1, columns by 2, diagonals by 0.5."""
    image = inverse_haar(torch.tensor([5, 1, 2, 0.5]).view(1, 4, 1, 1))
    assert image.tolist() == [[[[8.5, 3.5], [5.5, 2.5]]]]


def test_the_inverse_haar_transform_is_that_of_transposed_convolutions():
    """As the published graph has it: rows, then columns, by filters (1, 1) and (1, -1)."""
    x = torch.randn(2, 12, 5, 3, generator=torch.Generator().manual_seed(0))
    low, high = torch.tensor([1.0, 1.0]), torch.tensor([1.0, -1.0])

    def band(channel, rows, columns):
        kernel = torch.outer(rows, columns)[None, None]
        return F.conv_transpose2d(x[:, channel : channel + 1], kernel, stride=2)

    wanted = [
        band(c, low, low)
        + band(3 + 3 * c, high, low)
        + band(4 + 3 * c, low, high)
        + band(5 + 3 * c, high, high)
        for c in range(3)
    ]
    torch.testing.assert_close(inverse_haar(x), torch.cat(wanted, 1))


def test_a_modulated_convolution_scales_its_input():
    layer, generator = filled(Pointwise(6, 4)), torch.Generator().manual_seed(1)
    x = torch.randn(3, 6, 5, 7, generator=generator, dtype=torch.float64)
    style = torch.randn(3, 512, generator=generator, dtype=torch.float64)
    scaled = x * layer.style(style)[:, :, None, None]
    torch.testing.assert_close(layer(x, style), F.conv2d(scaled, layer.weight[:, :, None, None], layer.bias))


def test_a_separable_convolution_scales_its_input():
    layer, generator = filled(Separable(6, 4, 5)), torch.Generator().manual_seed(1)
    x = torch.randn(3, 6, 5, 5, generator=generator, dtype=torch.float64)
    style = torch.randn(3, 512, generator=generator, dtype=torch.float64)
    pointwise = layer.pointwise
    scaled = F.conv2d(
        x * pointwise.style(style)[:, :, None, None], layer.depthwise.weight, padding=1, groups=6
    )
    maps = F.conv2d(scaled, pointwise.weight[:, :, None, None], pointwise.bias) + layer.noise
    torch.testing.assert_close(layer(x, style), torch.where(maps > 0, maps, 0.2 * maps))


def test_the_mapping_does_not_depend_on_the_latents_length():
    mapping, z = filled(MappingNetwork()), latents(2).double()
    torch.testing.assert_close(mapping(5 * z), mapping(z), rtol=1e-6, atol=1e-7)


class StandIn(nn.Module):
    """In place of the synthesis: images that depend on all of the style."""

    shapes = ()

    def __init__(self, size):
        super().__init__()
        self.register_buffer("pattern", torch.linspace(-1, 1, size))

    def forward(self, style):
        levels = style[:, :510].unflatten(1, (3, 170)).mean(-1)[:, :, None, None]
        return 2 * torch.tanh(levels * 10) * self.pattern[None, None, :, None] * self.pattern


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    monkeypatch.setattr(mobilestylegan, "STYLES", 4000)
    monkeypatch.setattr(mobilestylegan, "locate", lambda name: tmp_path)
    mapping = filled(MappingNetwork()).float()
    monkeypatch.setattr(mobilestylegan, "load_mapping", lambda folder: mapping)
    monkeypatch.setattr(mobilestylegan, "load_synthesis", lambda folder: StandIn(1024))
    monkeypatch.setattr(mobilestylegan, "load_early_exit", lambda whole, size: StandIn(size))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "mobilestylegan-ffhq"),
        ({"size": 32}, "mobilestylegan-ffhq:size=32"),
        ({"exit": "early"}, "mobilestylegan-ffhq"),
        ({"exit": "full"}, "mobilestylegan-ffhq:exit=full"),
        ({"size": 129}, "mobilestylegan-ffhq:size=129"),
        ({"size": 129, "exit": "full"}, "mobilestylegan-ffhq:size=129"),
        (
            {"size": 224, "space": "w", "truncation": 0.7},
            "mobilestylegan-ffhq:size=224,space=w,truncation=0.7",
        ),
    ],
)
def test_the_name_says_how_to_load_it_again(stand_in, options, name):
    assert MobileStyleGAN(**options).name == name


@pytest.mark.parametrize("size", [1, 50, 64, 1024])
def test_images_are_means_over_areas_of_clamped_ones(stand_in, size):
    prior, z = MobileStyleGAN(size=size, exit="full"), latents(3)
    whole = (prior.synthesis(prior.mapping(z)) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(prior.decode(z), F.interpolate(whole, size, mode="area"))


@pytest.mark.parametrize(("size", "exit_size"), [(1, 64), (32, 64), (64, 64), (65, 128), (128, 128)])
def test_small_images_come_from_the_next_larger_early_exit(stand_in, size, exit_size):
    prior, z = MobileStyleGAN(size=size), latents(3)
    images = (StandIn(exit_size)(prior.mapping(z)) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(prior.decode(z), F.interpolate(images, size, mode="area"))


@pytest.mark.parametrize("way", ["early", "full"])
def test_the_gradient_of_a_chunked_batch_is_that_of_each_image(stand_in, way):
    prior, z = MobileStyleGAN(size=4, exit=way), latents(11).requires_grad_()
    prior.decode(z).square().sum().backward()
    for row, slope in zip(z.detach(), z.grad, strict=True):
        alone = row[None].clone().requires_grad_()
        prior.decode(alone).square().sum().backward()
        torch.testing.assert_close(alone.grad[0], slope)


def test_an_empty_batch_gives_no_images(stand_in):
    assert MobileStyleGAN(size=8).decode(torch.zeros(0, 512)).shape == (0, 3, 8, 8)


def test_truncation_moves_styles_towards_their_mean(stand_in):
    z = latents(3)
    for space in ("z", "w"):
        whole, half = MobileStyleGAN(space=space), MobileStyleGAN(space=space, truncation=0.25)
        moved = half.style_mean + 0.25 * (whole.styles(z) - half.style_mean)
        torch.testing.assert_close(half.styles(z), moved)


def test_styles_of_the_whitened_space_have_the_mappings_moments(stand_in):
    """Squared distances of 4000 fresh styles from the mean; five standard errors of two such samples."""
    prior = MobileStyleGAN(space="w")
    styles = prior.mapping(torch.randn(4000, 512, generator=torch.Generator().manual_seed(9)))
    distances = (styles - prior.style_mean).square().sum(1)
    spread = (prior.style_root @ prior.style_root.T).trace()
    assert (distances.mean() - spread).abs() < 5 * distances.std() * (2 / 4000) ** 0.5
    assert torch.allclose(prior.style_root, prior.style_root.T, atol=1e-6)
    torch.testing.assert_close(prior.styles(torch.zeros(1, 512))[0], prior.style_mean)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "expected a size of 1 to 1024 px, found 0"),
        ({"size": 1025}, "expected a size of 1 to 1024 px, found 1025"),
        ({"size": 256, "exit": "early"}, "expected exit=early with a size of up to 128 px, found 256"),
        ({"truncation": 0.0}, "expected a truncation above 0 and at most 1, found 0"),
        ({"truncation": float("nan")}, "expected a truncation above 0 and at most 1, found nan"),
    ],
)
def test_options_out_of_range_are_refused(stand_in, options, message):
    with pytest.raises(InputError, match=message):
        MobileStyleGAN(**options)


def test_missing_weights_are_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("GGL_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="run ggl weights fetch mobilestylegan-ffhq"):
        MobileStyleGAN()


def test_altered_weights_are_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("GGL_CACHE", str(tmp_path))
    ENTRY.folder.mkdir(parents=True)
    for file in ENTRY.files:
        (ENTRY.folder / file.name).write_text("<net/>")
    with pytest.raises(WeightsError, match="cut short or altered"):
        MobileStyleGAN()


@pytest.fixture(scope="module")
def prior():
    return MobileStyleGAN(size=1024)


@fetched
def test_images_are_the_recorded_ones(prior):
    """Half a 16-bit step, and the rounding of float32 within the network."""
    wanted = torch.from_numpy(np.load(REFERENCE)["images"].astype(np.float32)) / 65535
    found = F.interpolate(prior.decode(latents(2)), 32, mode="area")
    torch.testing.assert_close(found, wanted, rtol=0, atol=3e-5)


@fetched
@pytest.mark.parametrize("size", EXITS)
def test_an_early_exit_draws_what_the_whole_network_does(prior, size):
    """Of 200 pictures the worst is at 24.1 dB, the mean at 28.6 (64 px) and 29.5 (128 px)."""
    z = torch.randn(4, 512, generator=torch.Generator().manual_seed(5))
    wanted = F.interpolate(prior.decode(z), size, mode="area")
    found = MobileStyleGAN(size=size, exit="early").decode(z)
    decibels = -10 * (found - wanted).square().flatten(1).mean(1).log10()
    assert decibels.min() > 24
    assert decibels.mean() > 27


@fetched
@pytest.mark.parametrize("space", ["z", "w"])
@pytest.mark.parametrize("size", [64, 100, 128])
def test_early_exits_keep_the_contract(size, space):
    assert [f for f in check_prior(MobileStyleGAN(size=size, space=space)) if f.problem] == []


@fetched
def test_images_are_openvinos_own(prior):
    """OpenVINO's float32 is up to 1.5e-4 from the same network in float64, ours 5e-5 (maxima over pixels)."""
    z = latents(1)
    difference = prior.decode(z) - openvino_images(z)
    assert difference.abs().max() < 4e-4
    assert difference.square().mean().sqrt() < 1e-5


if __name__ == "__main__":
    small = F.interpolate(openvino_images(latents(2)), 32, mode="area")
    np.savez_compressed(sys.argv[1], images=(small * 65535).round().numpy().astype(np.uint16))
