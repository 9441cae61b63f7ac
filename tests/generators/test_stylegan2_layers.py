"""StyleGAN2's layers and networks against slow ones, written as loops from the papers' definitions."""

import math

import numpy as np
import pytest
import torch

from ggl.base.errors import WeightsError
from ggl.generators.stylegan2.layers import (
    EqualizedLinear,
    ModulatedConvolution,
    blur,
    leaky_relu,
    normalize,
    upsample,
)
from ggl.generators.stylegan2.mapping import MappingNetwork
from ggl.generators.stylegan2.synthesis import SynthesisNetwork, resolution_of
from ggl.generators.stylegan2.tensors import Settings, take

FIR = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 64
LOPSIDED = torch.arange(1.0, 17).reshape(4, 4) ** 2 / 1496
"""A filter of sum 1 without symmetry, so that a flip is seen."""


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_tensors(size=32, *, width=8, w_dim=16, z_dim=16, depth=2, classes=None, channels=3, seed=0):
    """Return random tensors of a generator under the official names."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    def convolution(name, inputs, outputs, k):
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = draw(outputs, inputs, k, k), 0.1 * draw(outputs)
        tensors[f"{name}.affine.weight"] = draw(inputs, w_dim)
        tensors[f"{name}.affine.bias"] = 1 + 0.1 * draw(inputs)

    tensors = {"synthesis.b4.const": draw(width, 4, 4), "mapping.w_avg": 0.3 * draw(w_dim)}
    if classes is not None:
        tensors["mapping.embed.weight"] = draw(w_dim, classes)
        tensors["mapping.embed.bias"] = 0.1 * draw(w_dim)
    for i in range(depth):
        inputs = w_dim if i else z_dim + (0 if classes is None else w_dim)
        tensors[f"mapping.fc{i}.weight"] = 100 * draw(w_dim, inputs)
        tensors[f"mapping.fc{i}.bias"] = 10 * draw(w_dim)
    for side in (4 * 2**i for i in range((size // 4).bit_length())):
        block = f"synthesis.b{side}"
        tensors[f"{block}.resample_filter"] = FIR.clone()
        for layer in ("conv1",) if side == 4 else ("conv0", "conv1"):
            convolution(f"{block}.{layer}", width, width, 3)
            tensors[f"{block}.{layer}.noise_const"] = draw(side, side)
            tensors[f"{block}.{layer}.noise_strength"] = 0.2 * draw(1)[0]
        convolution(f"{block}.torgb", width, channels, 1)
        tensors[f"{block}.torgb.weight"] *= 0.3
    return tensors


def slow_correlation(x, weight):
    """Return the sum over taps of x (c, h, w) shifted, without padding, as torch's `conv2d`."""
    outputs, inputs, k, _ = weight.shape
    height, width = x.shape[1] - k + 1, x.shape[2] - k + 1
    y = np.zeros((outputs, height, width))
    for o in range(outputs):
        for i in range(inputs):
            for a in range(k):
                for b in range(k):
                    y[o] += weight[o, i, a, b] * x[i, a : a + height, b : b + width]
    return y


def slow_upfirdn(x, fir, up, before, after):
    """Return each channel with zeros put in, padded, truly convolved with `fir`, times up²."""
    spread = np.zeros((x.shape[0], up * x.shape[1], up * x.shape[2]))
    for row in range(x.shape[1]):
        for column in range(x.shape[2]):
            spread[:, up * row, up * column] = x[:, row, column]
    padded = np.pad(spread, ((0, 0), (before, after), (before, after)))
    flipped = fir[::-1, ::-1][None, None]
    return np.concatenate([up**2 * slow_correlation(channel[None], flipped) for channel in padded])


def slow_modulated(x, weight, style, *, fir=None, demodulate=True):
    """Return the modulated convolution of one sample; with `fir`, up-sampled before it is convolved.

    The padding of 1 belongs to the convolution and stands before the filter, so that its tails count.
    """
    weight = weight * style[None, :, None, None]
    if demodulate:
        weight = weight / np.sqrt((weight**2).sum((1, 2, 3), keepdims=True) + 1e-8)
    pad = weight.shape[2] // 2
    if fir is None:
        return slow_correlation(np.pad(x, ((0, 0), (pad, pad), (pad, pad))), weight)
    return slow_correlation(slow_upfirdn(x, fir, 2, 2 + pad, 1 + pad), weight[:, :, ::-1, ::-1])


def slow_linear(x, weight, bias, multiplier=1.0):
    gain = multiplier / math.sqrt(len(x))
    return np.array(
        [
            sum(gain * weight[o, i] * x[i] for i in range(len(x))) + multiplier * bias[o]
            for o in range(len(bias))
        ]
    )


def slow_lrelu(x):
    return np.where(x > 0, x, 0.2 * x) * math.sqrt(2)


def slow_normalize(x):
    return x / math.sqrt(sum(value**2 for value in x) / len(x) + 1e-8)


def slow_mapping(tensors, z, label=None):
    """Return the style of one latent, float64 throughout."""
    t = {name: tensor.double().numpy() for name, tensor in tensors.items()}
    x = slow_normalize(z)
    if label is not None:
        hot = np.eye(t["mapping.embed.weight"].shape[1])[label]
        embedded = slow_linear(hot, t["mapping.embed.weight"], t["mapping.embed.bias"])
        x = np.concatenate((x, slow_normalize(embedded)))
    i = 0
    while f"mapping.fc{i}.weight" in t:
        x = slow_lrelu(slow_linear(x, t[f"mapping.fc{i}.weight"], t[f"mapping.fc{i}.bias"], 0.01))
        i += 1
    return x


def slow_synthesis(tensors, ws, size, clamp=np.inf):
    """Return one image of the styles (inputs, w_dim), by the skip architecture's definition."""
    t = {name: tensor.double().numpy() for name, tensor in tensors.items()}

    def styled(x, layer, w, fir=None):
        style = slow_linear(w, t[f"{layer}.affine.weight"], t[f"{layer}.affine.bias"])
        x = slow_modulated(x, t[f"{layer}.weight"], style, fir=fir)
        if f"{layer}.noise_const" in t:
            x = x + t[f"{layer}.noise_const"] * t[f"{layer}.noise_strength"]
        return slow_lrelu(x + t[f"{layer}.bias"][:, None, None]).clip(-clamp, clamp)

    def part(x, layer, w):
        style = slow_linear(w, t[f"{layer}.affine.weight"], t[f"{layer}.affine.bias"]) / math.sqrt(len(x))
        y = slow_modulated(x, t[f"{layer}.weight"], style, demodulate=False)
        return (y + t[f"{layer}.bias"][:, None, None]).clip(-clamp, clamp)

    x = styled(t["synthesis.b4.const"], "synthesis.b4.conv1", ws[0])
    image, used, side = part(x, "synthesis.b4.torgb", ws[1]), 1, 8
    while side <= size:
        block, fir = f"synthesis.b{side}", t[f"synthesis.b{side}.resample_filter"]
        x = styled(x, f"{block}.conv0", ws[used], fir)
        x = styled(x, f"{block}.conv1", ws[used + 1])
        image = slow_upfirdn(image, fir, 2, 2, 1) + part(x, f"{block}.torgb", ws[used + 2])
        used, side = used + 2, 2 * side
    return image


def near(found, wanted):
    torch.testing.assert_close(found.double(), torch.as_tensor(wanted), rtol=0, atol=1e-9)


@pytest.mark.parametrize("fir", [FIR, LOPSIDED])
@pytest.mark.parametrize("shape", [(2, 3, 1, 1), (1, 1, 5, 4), (2, 3, 4, 7)])
def test_filters_are_upfirdn_by_its_definition(fir, shape):
    x, fir = random(*shape).double(), fir.double()
    near(upsample(x, fir), np.stack([slow_upfirdn(s, fir.numpy(), 2, 2, 1) for s in x.numpy()]))
    if min(shape[2:]) > 1:
        near(blur(x, fir), np.stack([4 * slow_upfirdn(s, fir.numpy(), 1, 1, 1) for s in x.numpy()]))


def test_up_sampling_keeps_a_flat_picture_flat_inside():
    found = upsample(torch.full((1, 1, 6, 6), 0.7), FIR)
    assert found.shape == (1, 1, 12, 12)
    torch.testing.assert_close(found[..., 2:-2, 2:-2], torch.full((1, 1, 8, 8), 0.7))


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize(("k", "fir"), [(1, None), (3, None), (3, FIR), (3, LOPSIDED)])
def test_modulated_convolution_is_the_loop_over_samples_outputs_and_taps(k, fir, demodulate):
    x, style = random(3, 4, 5, 6, seed=1).double(), random(3, 4, seed=2).double()
    weight = random(7, 4, k, k, seed=3)
    layer = ModulatedConvolution(weight.double(), fir=fir, demodulate=demodulate).double()
    y, factor = layer(x, style)
    fir = None if fir is None else fir.double().numpy()
    wanted = [
        slow_modulated(
            x[i].numpy(), weight.double().numpy(), style[i].numpy(), fir=fir, demodulate=demodulate
        )
        for i in range(3)
    ]
    near(y * factor[:, :, None, None], np.stack(wanted))


def test_modulated_convolution_is_differentiable_in_input_and_style():
    layer = ModulatedConvolution(random(3, 2, 3, 3).double(), fir=FIR, demodulate=True).double()
    x, style = random(2, 2, 3, 3).double().requires_grad_(), random(2, 2).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, s: layer(x, s)[0], (x, style))
    assert torch.autograd.gradcheck(lambda x, s: layer(x, s)[1], (x, style))


def test_demodulated_outputs_have_unit_variance_for_unit_inputs():
    """Equation 3's purpose. 2,000 pixels of 64 · 9 terms each: five standard errors of a variance."""
    layer = ModulatedConvolution(50 * random(4, 64, 1, 1), fir=None, demodulate=True)
    y, factor = layer(random(1, 64, 40, 50), 30 * random(1, 64, seed=4))
    variance = (y * factor[:, :, None, None]).var((0, 2, 3))
    assert (variance - 1).abs().max() < 5 * math.sqrt(2 / 2000)


def test_float16_neither_overflows_nor_departs():
    """Plain weights of this size and styles of 1e4 exceed 65504 within a sum."""
    weight, x, style = 50 * random(8, 256, 3, 3), 60 * random(1, 256, 6, 6), 1e4 * random(1, 256, seed=5)
    layer = ModulatedConvolution(weight, fir=FIR, demodulate=True)
    results = []
    for dtype in (torch.float32, torch.float16):
        y, factor = layer(x.to(dtype), style)
        assert y.dtype == dtype
        results.append(y.float() * factor[:, :, None, None])
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0.01 * float(results[0].std()))


@pytest.mark.parametrize("multiplier", [1.0, 0.01])
def test_the_equalized_linear_layer_is_the_loop(multiplier):
    weight, bias, x = random(3, 5).double(), random(3, seed=1).double(), random(2, 5, seed=2).double()
    found = EqualizedLinear(weight, bias, multiplier)(x)
    near(found, np.stack([slow_linear(row, weight.numpy(), bias.numpy(), multiplier) for row in x.numpy()]))


def test_activation_and_normalization_by_hand():
    torch.testing.assert_close(leaky_relu(torch.tensor([1.0, -1.0])), torch.tensor([2**0.5, -0.2 * 2**0.5]))
    torch.testing.assert_close(normalize(torch.tensor([[3.0, 4.0]])), torch.tensor([[3.0, 4.0]]) / 12.5**0.5)


def test_a_filter_of_zeros_is_refused():
    with pytest.raises(WeightsError, match="expected weights, found a filter of zeros"):
        ModulatedConvolution(torch.zeros(2, 2, 3, 3), fir=None, demodulate=True)


@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize(("z_dim", "w_dim", "depth"), [(16, 16, 2), (5, 9, 1), (4, 6, 8)])
def test_the_mapping_network_is_the_loop(z_dim, w_dim, depth, classes):
    tensors = random_tensors(4, z_dim=z_dim, w_dim=w_dim, depth=depth, classes=classes)
    network = MappingNetwork(tensors).double()
    assert (network.z_dim, network.w_dim, network.num_classes) == (z_dim, w_dim, classes)
    z = random(3, z_dim, seed=9).double()
    labels = None if classes is None else torch.tensor([2, 0, 2])
    rows = [slow_mapping(tensors, z[i].numpy(), None if classes is None else labels[i]) for i in range(3)]
    torch.testing.assert_close(network(z, labels), torch.tensor(np.stack(rows)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("clamp", "channels"), [(None, 3), (0.8, 1)])
def test_the_synthesis_network_is_the_slow_one_at_every_size(clamp, channels):
    tensors = random_tensors(16, channels=channels)
    assert resolution_of(tensors) == 16
    for side in (4, 8, 16):
        network = SynthesisNetwork(tensors, 16, Settings(conv_clamp=clamp), side).double()
        ws = random(2, network.num_ws, 16).double()
        wanted = [slow_synthesis(tensors, row, side, clamp or np.inf) for row in ws.numpy()]
        found = network(ws)
        assert found.shape == (2, channels, side, side)
        torch.testing.assert_close(found, torch.tensor(np.stack(wanted)), rtol=0, atol=1e-5)


def test_the_clamp_of_that_test_cuts():
    network = [SynthesisNetwork(random_tensors(16), 16, Settings(conv_clamp=c)) for c in (None, 0.8)]
    ws = random(1, network[0].num_ws, 16)
    assert (network[0](ws) - network[1](ws)).abs().max() > 0.1


def test_style_inputs_count_two_a_block():
    assert SynthesisNetwork(random_tensors(32), 16, Settings()).num_ws == 8
    assert SynthesisNetwork(random_tensors(32), 16, Settings(), 8).num_ws == 4


def test_a_file_without_noise_is_decoded_without():
    tensors = {k: v for k, v in random_tensors(8).items() if ".noise_" not in k}
    ws = random(1, 4, 16)
    found = SynthesisNetwork(tensors, 16, Settings())(ws)
    wanted = slow_synthesis(tensors, ws[0].double().numpy(), 8)
    torch.testing.assert_close(found[0], torch.tensor(wanted).float(), rtol=0, atol=1e-5)


def test_float16_is_left_to_cuda():
    tensors, ws = random_tensors(16), random(2, 6, 16)
    half = SynthesisNetwork(tensors, 16, Settings(num_fp16_res=2), half=True)
    assert half.half_from == 8
    assert torch.equal(half(ws), SynthesisNetwork(tensors, 16, Settings())(ws))


def test_settings_are_read_from_the_constructors_arguments():
    assert Settings.of({}) == Settings(0.01, None, 0)
    found = Settings.of(
        {
            "z_dim": 512,
            "mapping_kwargs": {"num_layers": 8, "lr_multiplier": 0.1},
            "synthesis_kwargs": {"num_fp16_res": 4, "conv_clamp": 256, "architecture": "skip"},
        }
    )
    assert found == Settings(0.1, 256.0, 4)


@pytest.mark.parametrize(
    ("part", "option", "value"),
    [
        ("synthesis_kwargs", "architecture", "resnet"),
        ("synthesis_kwargs", "architecture", "orig"),
        ("synthesis_kwargs", "activation", "swish"),
        ("mapping_kwargs", "activation", "relu"),
    ],
)
def test_other_networks_are_refused(part, option, value):
    with pytest.raises(WeightsError, match=f"expected {option} .*, found '{value}', which is not supported"):
        Settings.of({part: {option: value}})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mapping_kwargs": 3}, "expected mapping_kwargs as a table, found 3; correct the settings"),
        ({"conv_clamp": 2, "synthesis_kwargs": {"conv_clamp": 1}}, "expected one conv_clamp, found 2 and"),
        *(
            ({part: {option: value}}, f"for {option}, found {repr(value)[:9]}")
            for part, option, values in (
                ("synthesis_kwargs", "conv_clamp", ("x", True, 0, -1, math.nan, math.inf, 10**400)),
                ("mapping_kwargs", "lr_multiplier", (0, -0.1, math.nan, [1], 10**400)),
                ("synthesis_kwargs", "num_fp16_res", (math.nan, math.inf, -1, 1.5, 17, True, 10**400)),
            )
            for value in values
        ),
        ({"synthesis_kwargs": {"architecture": "x" * 5000}}, "expected architecture 'skip', found 'xxx"),
    ],
)
def test_settings_of_the_wrong_kind_or_out_of_range_are_refused(settings, message):
    with pytest.raises(WeightsError) as caught:
        Settings.of(settings)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 250


def test_settings_beside_those_of_the_parts_are_used():
    found = Settings.of({"conv_clamp": 256, "num_fp16_res": 2, "lr_multiplier": 0.1})
    assert found == Settings(0.1, 256.0, 2)
    with pytest.raises(WeightsError, match="expected activation 'lrelu', found 'relu'"):
        Settings.of({"activation": "relu"})


def test_a_residual_generator_is_refused_by_its_tensors():
    tensors = random_tensors(8) | {"synthesis.b8.skip.weight": random(8, 8, 1, 1)}
    with pytest.raises(WeightsError, match="expected architecture 'skip', found 'resnet'"):
        SynthesisNetwork(tensors, 16, Settings())


def test_tensors_are_checked_by_name_and_shape():
    tensors = random_tensors(8)
    del tensors["synthesis.b8.conv1.affine.bias"]
    with pytest.raises(
        WeightsError, match=r"expected a tensor 'synthesis\.b8\.conv1\.affine\.bias', found none"
    ):
        SynthesisNetwork(tensors, 16, Settings())
    with pytest.raises(WeightsError, match=r"expected 'a' of shape \(any, 3\), found \(2, 4\)"):
        take({"a": torch.zeros(2, 4)}, "a", (None, 3))


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (3, "expected a tensor 'a', found 3"),
        (torch.zeros(2, 0), "expected 'a' with values, found shape (2, 0)"),
        (torch.zeros(2, 3, dtype=torch.complex64), "found torch.strided, torch.complex64"),
        (torch.zeros(2, 3, device="meta"), "found one without values"),
        (torch.zeros(2, 3).to_sparse(), "found torch.sparse_coo, torch.float32"),
        (torch.zeros(1).expand(10**6, 10**6), "expected 'a' with values, found shape (1000000, 1000000)"),
        (torch.full((2, 3), math.nan), "expected 'a' of finite numbers, found NaN or infinity"),
        (torch.full((2, 3), 1e300, dtype=torch.float64), "expected 'a' of finite numbers"),
    ],
)
def test_tensors_without_finite_values_of_their_own_are_refused(odd, message):
    with pytest.raises(WeightsError) as caught:
        take({"a": odd}, "a", (None, None))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("synthesis.b4.const", (5, 4, 4)),
        ("synthesis.b4.conv1.noise_const", (1, 1)),
        ("synthesis.b8.conv0.noise_const", (4, 4)),
        ("synthesis.b8.conv0.weight", (8, 7, 3, 3)),
        ("synthesis.b8.conv0.weight", (7, 8, 3, 3)),
        ("synthesis.b8.conv1.weight", (8, 7, 3, 3)),
        ("synthesis.b4.torgb.weight", (3, 7, 1, 1)),
        ("synthesis.b8.torgb.weight", (4, 8, 1, 1)),
        ("mapping.fc0.weight", (16, 16)),
        ("mapping.fc0.weight", (15, 32)),
        ("mapping.fc1.weight", (16, 15)),
        ("mapping.embed.weight", (15, 3)),
        ("mapping.embed.weight", (16, 0)),
    ],
)
def test_tensors_that_do_not_fit_each_other_are_refused(name, shape):
    tensors = random_tensors(8, classes=3) | {name: random(*shape)}
    with pytest.raises(WeightsError, match="; use a StyleGAN2 or StyleGAN2-ADA skip generator"):
        SynthesisNetwork(tensors, MappingNetwork(tensors).w_dim, Settings())


def test_an_up_convolution_has_a_filter_of_its_own_where_the_file_has_one():
    tensors = random_tensors(8)
    network = SynthesisNetwork(tensors | {"synthesis.b8.conv0.resample_filter": LOPSIDED}, 16, Settings())
    assert torch.equal(network.blocks[1].up.convolution.fir, LOPSIDED)
    assert torch.equal(network.blocks[1].fir, FIR)
