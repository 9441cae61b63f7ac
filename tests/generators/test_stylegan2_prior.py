"""StyleGAN2 as a prior: files, spaces, truncation, classes, sizes."""

import argparse
import json
import math

import numpy as np
import pytest
import torch
from test_official_pickle import write_official
from test_stylegan2_layers import FIR, random, random_tensors, slow_mapping, slow_synthesis

from ggl.base.errors import InputError, UnknownNameError, WeightsError
from ggl.base.files import sha256
from ggl.base.options import build
from ggl.base.weight_files import KeptFile, Url, WeightFiles, weight_catalog
from ggl.base.weights import save_tensors
from ggl.generators.contract import check_prior
from ggl.generators.stylegan2.files import read_generator
from ggl.generators.stylegan2.mapping import MappingNetwork
from ggl.generators.stylegan2.prior import MOST_CLASSES, StyleGAN2
from ggl.generators.stylegan2.rosinality import to_official
from ggl.generators.stylegan2.synthesis import SynthesisNetwork
from ggl.generators.stylegan2.tensors import Settings
from ggl.generators.stylegan2.whitening import Whitening
from ggl.generators.whitening import FLOOR

W_DIM = 16


def make_tiny(folder, options="", *, suffix=".safetensors", settings=None, **shape) -> str:
    """Write a random generator into `folder` and return the specification that loads it.

    `suffix`: ".safetensors", ".pkl" (an official pickle) or ".pt" (a rosinality checkpoint).
    `options` follow the path ("space=w,truncation=0.7"); `shape` goes to `random_tensors` (size=32,
    width=8, w_dim=16, z_dim=16, depth=2, classes=None, channels=3, seed=0).
    """
    path = folder / f"tiny{suffix}"
    tensors = random_tensors(**shape)
    if suffix == ".safetensors":
        save_tensors(path, tensors, {"settings": json.dumps(settings or {})})
    elif suffix == ".pkl":
        write_official(path, tensors, settings or {})
    else:
        torch.save({"g_ema": to_rosinality(tensors), "latent_avg": tensors["mapping.w_avg"]}, path)
    return f"stylegan2:{path}" + (f",{options}" if options else "")


def load(specification):
    """Return the prior of "stylegan2:...", registered or not."""
    return build(f"prior {specification!r}", StyleGAN2, specification.partition(":")[2])


def to_rosinality(tensors):
    """Return official tensors as a rosinality generator's state dict."""
    sides = sorted(int(n.split(".")[1][1:]) for n in tensors if n.endswith("torgb.bias"))
    state = {"input.input": tensors["synthesis.b4.const"][None]}

    def put(old, new):
        weight = tensors[f"{new}.weight"]
        scale = 1 if weight.shape[2] == 1 else math.sqrt(weight[0].numel())
        state[f"{old}.conv.weight"] = weight[None] * scale
        for part in ("weight", "bias"):
            state[f"{old}.conv.modulation.{part}"] = tensors[f"{new}.affine.{part}"]
        if weight.shape[2] == 1:
            state[f"{old}.bias"] = tensors[f"{new}.bias"].reshape(1, 3, 1, 1)
            return
        state[f"{old}.activate.bias"] = tensors[f"{new}.bias"]
        state[f"{old}.noise.weight"] = tensors[f"{new}.noise_strength"].reshape(1)
        noise = sum(name.startswith("noises.") for name in state)
        state[f"noises.noise_{noise}"] = tensors[f"{new}.noise_const"][None, None]

    for i in range(sum(n.startswith("mapping.fc") for n in tensors) // 2):
        for part in ("weight", "bias"):
            state[f"style.{i + 1}.{part}"] = tensors[f"mapping.fc{i}.{part}"]
    put("conv1", "synthesis.b4.conv1")
    put("to_rgb1", "synthesis.b4.torgb")
    for i, side in enumerate(sides[1:]):
        put(f"convs.{2 * i}", f"synthesis.b{side}.conv0")
        put(f"convs.{2 * i + 1}", f"synthesis.b{side}.conv1")
        put(f"to_rgbs.{i}", f"synthesis.b{side}.torgb")
        state[f"convs.{2 * i}.conv.blur.kernel"] = state[f"to_rgbs.{i}.upsample.kernel"] = 4 * FIR
    return state


def draw(prior, n, seed=0):
    z = prior.sample(n, torch.Generator().manual_seed(seed))
    return z, None if prior.num_classes is None else torch.arange(n) % prior.num_classes


@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize("options", ["", "space=w", "space=w+,layers=3,truncation=0.7,size=16"])
def test_it_keeps_the_contract(tmp_path, options, classes):
    spec = make_tiny(tmp_path, options, classes=classes)
    prior = load(spec)
    assert prior.name == spec
    assert [finding for finding in check_prior(prior) if finding.problem] == []


@pytest.mark.parametrize("options", ["", "space=w", "space=w+,layers=2"])
@pytest.mark.parametrize("classes", [None, 2])
def test_the_gradient_is_that_of_finite_differences(tmp_path, options, classes):
    prior = load(make_tiny(tmp_path, options, size=8, classes=classes)).double()
    z, labels = draw(prior, 2)
    z = z.double().requires_grad_()
    weights = random(2, 3, 8, 8).double()
    images = prior.decode(z, labels)
    assert images.dtype == torch.float64
    (slope,) = torch.autograd.grad((images * weights).sum(), z)
    found = sum(sign * (prior.decode(z + sign * 1e-6, labels) * weights).sum() / 2e-6 for sign in (1, -1))
    torch.testing.assert_close(found, slope.sum(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", ["", "space=w", "space=w+,layers=2,truncation=0.5"])
def test_it_moves_between_devices(tmp_path, options):
    prior = load(make_tiny(tmp_path, options, size=8)).to("meta")
    assert prior.decode(torch.zeros(2, prior.latent_dim, device="meta")).device.type == "meta"


def test_loading_leaves_the_global_random_state_alone_and_is_repeatable(tmp_path):
    spec, before = make_tiny(tmp_path, "space=w"), torch.get_rng_state()
    first, second = load(spec), load(spec)
    assert torch.equal(torch.get_rng_state(), before)
    z = random(2, W_DIM)
    assert torch.equal(first.decode(z), second.decode(z))


@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize("psi", [1.0, 0.6])
def test_z_is_decoded_as_the_slow_networks_do(tmp_path, psi, classes):
    shape = {"size": 16, "z_dim": 12, "classes": classes}
    prior = load(make_tiny(tmp_path, f"truncation={psi}", **shape))
    tensors = random_tensors(**shape)
    z, labels = draw(prior, 2)
    for i in range(2):
        w = slow_mapping(tensors, z[i].double().numpy(), None if labels is None else int(labels[i]))
        average = tensors["mapping.w_avg"].double().numpy()
        w = average + psi * (w - average)
        wanted = (slow_synthesis(tensors, np.tile(w, (6, 1)), 16) + 1) / 2
        torch.testing.assert_close(
            prior.decode(z, labels)[i].double(), torch.tensor(wanted).clamp(0, 1), rtol=0, atol=2e-5
        )


@pytest.mark.parametrize("size", [4, 8, 16])
def test_a_smaller_size_is_the_sum_of_the_skips_up_to_there(tmp_path, size):
    prior = load(make_tiny(tmp_path, f"size={size}"))
    z, _ = draw(prior, 2)
    full, outputs = load(make_tiny(tmp_path)), []
    for block in full.synthesis.blocks:
        block.register_forward_hook(lambda module, inputs, output: outputs.append(output[1]))
    full.decode(z)
    wanted = next(image for image in outputs if image.shape[-1] == size)
    assert prior.image_shape == (3, size, size)
    torch.testing.assert_close(prior.decode(z), ((wanted + 1) / 2).clamp(0, 1), rtol=0, atol=1e-6)


def test_whitened_styles_have_mean_0_and_covariance_1():
    """Against fresh latents, by the whitening's inverse.

    Both the fresh moments and those held come from n samples; the entries' deviations are bounded by
    six standard errors, those of products by the samples' own fourth moments.
    """
    mapping = MappingNetwork(random_tensors(4, depth=1))
    whitening, n = Whitening(mapping), 20_000
    w = mapping(random(n, 16, seed=77)).double()
    u = torch.linalg.solve(whitening.root[0].double(), (w - whitening.mean.double()).T).T
    assert (u.mean(0).abs() < 6 * (2 / n) ** 0.5).all()
    products = u[:, :, None] * u[:, None, :]
    assert ((products.mean(0) - torch.eye(16)).abs() < 6 * products.std(0) * (2 / n) ** 0.5).all()


def test_standard_normal_coordinates_have_the_moments_of_w():
    mapping = MappingNetwork(random_tensors(4))
    u = random(20_000, 16, seed=5)
    found, wanted = Whitening(mapping)(u), mapping(random(20_000, 16, seed=6))
    error = 6 * ((found.var(0) + wanted.var(0)) / 10_000).sqrt()
    assert ((found.mean(0) - wanted.mean(0)).abs() < error).all()
    torch.testing.assert_close(found.T.cov(), wanted.T.cov(), rtol=0.1, atol=0.1 * float(wanted.var()))


def test_each_class_has_its_own_whitening():
    mapping = MappingNetwork(random_tensors(4, classes=3))
    whitening = Whitening(mapping)
    labels = torch.tensor([2, 0])
    for label in (0, 1, 2):
        w = mapping(random(20_000, 16, seed=label), torch.full((20_000,), label))
        error = 6 * (2 * w.var(0) / 20_000).sqrt()
        assert ((whitening.mean[label] - w.mean(0)).abs() < error).all()
    u = random(2, 16)
    rows = [whitening(u[i : i + 1], labels[i : i + 1])[0] for i in range(2)]
    torch.testing.assert_close(whitening(u, labels), torch.stack(rows))
    torch.testing.assert_close(rows[0], whitening.mean[2] + u[0] @ whitening.root[2])


def test_a_direction_without_variance_is_kept():
    """The last layer's copies of one output make W flat along their difference."""
    tensors = random_tensors(4)
    for part in ("weight", "bias"):
        tensors[f"mapping.fc1.{part}"][1] = tensors[f"mapping.fc1.{part}"][0]
    root = Whitening(MappingNetwork(tensors)).root[0].double()
    values = torch.linalg.eigvalsh(root)
    assert values[0] / values[-1] == pytest.approx(FLOOR**0.5, rel=1e-2)


@pytest.mark.parametrize(
    ("layers", "groups"), [(1, [0] * 6), (2, [0, 0, 0, 1, 1, 1]), (4, [0, 0, 1, 1, 2, 3]), (6, [*range(6)])]
)
def test_w_plus_gives_each_group_of_style_inputs_its_vector(tmp_path, layers, groups):
    prior = load(make_tiny(tmp_path, f"space=w+,layers={layers}", size=16))
    assert prior.latent_dim == layers * W_DIM
    z, _ = draw(prior, 2)
    styles = prior.styles(z)
    vectors = [prior.whitening(part) for part in z.split(W_DIM, dim=1)]
    torch.testing.assert_close(styles, torch.stack([vectors[group] for group in groups], dim=1))


def test_w_is_w_plus_of_one_layer(tmp_path):
    z = random(2, W_DIM)
    images = [load(make_tiny(tmp_path, o)).decode(z) for o in ("space=w", "space=w+,layers=1")]
    assert torch.equal(*images)


@pytest.mark.parametrize("options", ["", "space=w", "space=w+,layers=2"])
def test_truncation_draws_styles_towards_their_mean(tmp_path, options):
    full = load(make_tiny(tmp_path, options))
    z, _ = draw(full, 3)
    near = load(make_tiny(tmp_path, f"{options},truncation=0.25".strip(","))).styles(z)
    average = random_tensors()["mapping.w_avg"]
    torch.testing.assert_close(near - average, 0.25 * (full.styles(z) - average), rtol=1e-4, atol=1e-5)


def test_without_a_mean_style_that_of_samples_is_taken(tmp_path):
    tensors = random_tensors()
    del tensors["mapping.w_avg"]
    save_tensors(tmp_path / "a.safetensors", tensors)
    z = load(f"stylegan2:{tmp_path}/a.safetensors,truncation=0.5")
    w = load(f"stylegan2:{tmp_path}/a.safetensors,space=w,truncation=0.5")
    assert torch.equal(z.average, w.average)
    assert torch.equal(w.average, w.whitening.mean[0])


def test_gray_generators_and_names(tmp_path):
    spec = make_tiny(tmp_path, "space=w+,layers=2,truncation=0.7,size=8,half=1", channels=1)
    prior = load(spec)
    assert prior.image_shape == (1, 8, 8)
    assert prior.name == spec
    assert load(spec.partition(",")[0] + ",space=z,truncation=1").name == make_tiny(tmp_path, channels=1)


def test_settings_of_a_safetensors_file_are_used(tmp_path):
    settings = {"synthesis_kwargs": {"conv_clamp": 0.5}, "mapping_kwargs": {"lr_multiplier": 0.02}}
    spec = make_tiny(tmp_path, settings=settings)
    assert read_generator(tmp_path / "tiny.safetensors")[1] == Settings(0.02, 0.5, 0)
    clamped, plain = load(spec), load(make_tiny(tmp_path))
    assert not torch.allclose(clamped.decode(random(1, 16)), plain.decode(random(1, 16)), atol=1e-2)


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000, "1" * 5000])
def test_settings_that_are_no_json_table_are_refused(tmp_path, text):
    save_tensors(tmp_path / "a.safetensors", random_tensors(4), {"settings": text})
    with pytest.raises(WeightsError, match="under 'settings', found"):
        load(f"stylegan2:{tmp_path}/a.safetensors")


def test_an_official_pickle_gives_the_same_images(tmp_path):
    settings = {"synthesis_kwargs": {"conv_clamp": 1.5}, "mapping_kwargs": {"lr_multiplier": 0.02}}
    first, second = (
        load(make_tiny(tmp_path, "space=w", suffix=suffix, settings=settings, classes=2))
        for suffix in (".pkl", ".safetensors")
    )
    z, labels = draw(first, 2)
    assert torch.equal(first.decode(z, labels), second.decode(z, labels))


def test_a_rosinality_checkpoint_gives_the_official_tensors(tmp_path):
    make_tiny(tmp_path, suffix=".pt")
    found, wanted = read_generator(tmp_path / "tiny.pt")[0], random_tensors()
    del wanted["synthesis.b4.resample_filter"]
    assert found.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name])


def test_a_rosinality_checkpoint_gives_the_same_images(tmp_path):
    other, official = load(make_tiny(tmp_path, suffix=".pt")), load(make_tiny(tmp_path))
    z, _ = draw(other, 2)
    torch.testing.assert_close(other.decode(z), official.decode(z), rtol=0, atol=1e-5)


def test_a_rosinality_up_convolution_is_scattered_then_blurred():
    """Its definition: each input adds its copy of the stored kernel, then a filter of gain 4 over 1 px."""
    state = to_rosinality(random_tensors(8, width=2))
    x, style = random(2, 4, 4).double().numpy(), np.array([0.7, -1.3])
    stored = state["convs.0.conv.weight"][0].double().numpy()
    weight = stored / math.sqrt(2 * 9) * style[None, :, None, None]
    weight = weight / np.sqrt((weight**2).sum((1, 2, 3), keepdims=True) + 1e-8)
    spread = np.zeros((2, 11, 11))
    for o, i, a, b, row, column in np.ndindex(2, 2, 3, 3, 4, 4):
        spread[o, 1 + 2 * row + a, 1 + 2 * column + b] += weight[o, i, a, b] * x[i, row, column]
    kernel, wanted = state["convs.0.conv.blur.kernel"].numpy(), np.zeros((2, 8, 8))
    for a, b in np.ndindex(4, 4):
        wanted += kernel[a, b] * spread[:, a : a + 8, b : b + 8]
    network = SynthesisNetwork(to_official(state), W_DIM, Settings()).blocks[1].up.convolution.double()
    y, factor = network(torch.tensor(x)[None], torch.tensor(style)[None])
    torch.testing.assert_close((y * factor[:, :, None, None])[0], torch.tensor(wanted), rtol=0, atol=1e-6)


def test_a_training_checkpoint_and_a_bare_state_dict_are_read(tmp_path):
    state = to_rosinality(random_tensors(8))
    training = {"g": state, "g_ema": state, "g_optim": {"state": {}}, "args": argparse.Namespace(lr=0.1)}
    torch.save(training, tmp_path / "a.pt")
    torch.save(state, tmp_path / "b.pth")
    first, second = (read_generator(tmp_path / name)[0] for name in ("a.pt", "b.pth"))
    assert first.keys() == second.keys()
    assert "mapping.w_avg" not in first


class Hostile:
    def __reduce__(self):
        return (print, ("executed",))


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, capsys):
    torch.save({"g_ema": Hostile()}, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match="expected tensors only, found something else; refused"):
        load(f"stylegan2:{tmp_path}/a.pt")
    assert "executed" not in capsys.readouterr().out


def test_other_checkpoints_are_refused(tmp_path):
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=r"expected a generator 'g_ema' with a tensor 'input\.input'"):
        load(f"stylegan2:{tmp_path}/a.pt")
    state = to_rosinality(random_tensors(8))
    del state["convs.1.activate.bias"]
    torch.save(state, tmp_path / "b.pt")
    with pytest.raises(
        WeightsError, match=r"b\.pt: expected a tensor 'convs\.1\.activate\.bias', found none"
    ):
        load(f"stylegan2:{tmp_path}/b.pt")


@pytest.mark.parametrize("odd", [3, torch.tensor(3.0), torch.zeros(1, 0, 4, 4), torch.zeros(3, 4)])
def test_a_checkpoint_of_odd_values_is_refused(tmp_path, odd):
    torch.save({"g_ema": to_rosinality(random_tensors(8)) | {"input.input": odd}}, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=r"a\.pt: expected .*'input\.input'.*; use a StyleGAN2"):
        load(f"stylegan2:{tmp_path}/a.pt")
    torch.save({"g_ema": to_rosinality(random_tensors(8)), "latent_avg": odd}, tmp_path / "b.pt")
    with pytest.raises(WeightsError, match=r"b\.pt: expected .*; use a StyleGAN2"):
        load(f"stylegan2:{tmp_path}/b.pt,truncation=0.5")


def test_errors_about_a_files_content_say_which_file(tmp_path):
    spec = make_tiny(tmp_path, settings={"synthesis_kwargs": {"conv_clamp": 0}})
    with pytest.raises(WeightsError, match=r"tiny\.safetensors: expected a number above 0"):
        load(spec)
    save_tensors(
        tmp_path / "a.safetensors", random_tensors(8) | {"mapping.fc0.bias": torch.full((16,), math.nan)}
    )
    with pytest.raises(
        WeightsError, match=r"a\.safetensors: expected 'mapping\.fc0\.bias' of finite numbers"
    ):
        load(f"stylegan2:{tmp_path}/a.safetensors,space=w")


def test_a_published_generator_is_loaded_by_its_short_name(tmp_path, monkeypatch):
    monkeypatch.setenv("GGL_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="run ggl weights fetch stylegan2-ffhq"):
        load("stylegan2:ffhq,space=w")
    file = tmp_path / "weights" / "stylegan2-mine" / "tiny.pkl"
    file.parent.mkdir(parents=True)
    spec = make_tiny(file.parent, "space=w", suffix=".pkl")
    kept = KeptFile(file.name, "", sha256(file), file.stat().st_size)
    entry = WeightFiles("stylegan2-mine", "", "", Url(), (kept,))
    monkeypatch.setitem(weight_catalog.entries, entry.name, entry)
    found, z = load("stylegan2:mine,space=w"), random(1, W_DIM)
    assert found.name == "stylegan2:mine,space=w"
    assert torch.equal(found.decode(z), load(spec).decode(z))
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(WeightsError, match=r"expected SHA-256 .* cut short or altered"):
        load("stylegan2:mine")


def test_an_unknown_short_name_is_refused_with_those_there_are():
    with pytest.raises(
        UnknownNameError, match=r"named 'fhq'; did you mean 'ffhq'.* known: cifar10, ffhq, ffhq256"
    ):
        load("stylegan2:fhq")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("truncation=0", "expected a truncation above 0, at most 1, found 0"),
        ("truncation=1.5", "expected a truncation above 0, at most 1, found 1.5"),
        ("size=64", "expected a size of 4, 8, 16, 32, found 64"),
        ("size=12", "expected a size of 4, 8, 16, 32, found 12"),
        ("layers=2", "expected layers with space=w+ alone, found space=z"),
        ("space=w,layers=2", "expected layers with space=w+ alone, found space=w"),
        ("space=w+", "expected layers=1 to 8 with space=w+, found none"),
        ("space=w+,layers=9", "expected layers=1 to 8 with space=w+, found 9"),
        ("space=w+,layers=5,size=8", "expected layers=1 to 4 with space=w+, found 5"),
    ],
)
def test_options_out_of_range_are_refused(tmp_path, options, message):
    with pytest.raises(InputError) as caught:
        load(make_tiny(tmp_path, options))
    assert str(caught.value) == f"stylegan2: {message}"


def test_other_options_and_files_are_refused(tmp_path):
    with pytest.raises(UnknownNameError, match="no value of space is named 'p'"):
        load(make_tiny(tmp_path, "space=p"))
    with pytest.raises(
        InputError, match=r"expected a \.pkl, \.pt, \.pth or \.safetensors file, found 'a\.onnx'"
    ):
        load("stylegan2:a.onnx")
    with pytest.raises(WeightsError, match="cannot be read"):
        load(f"stylegan2:{tmp_path}/missing.safetensors")


def test_w_of_very_many_classes_is_refused(tmp_path):
    spec = make_tiny(tmp_path, "space=w", size=4, classes=MOST_CLASSES + 1)
    with pytest.raises(InputError, match="expected at most 100 classes with space=w, found 101; use space=z"):
        load(spec)
