"""BigGAN-deep: the folded prior against the library's own network, with random weights."""

import hashlib
import importlib
import json
import math
import pickle
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from ggl.base.errors import InputError, WeightsError
from ggl.generators import load_prior
from ggl.generators.biggan import prior as biggan
from ggl.generators.biggan.configuration import PUBLISHED, read_configuration
from ggl.generators.biggan.prior import BigGAN
from ggl.generators.biggan.spectral import fold_spectral_norm

needs_library = pytest.mark.skipif(
    importlib.util.find_spec("pytorch_pretrained_biggan") is None, reason="needs the extra 'biggan'"
)
TINY = replace(PUBLISHED[128], channel_width=4, z_dim=16, class_embed_dim=16, num_classes=40)


def random_network(configuration, seed=0):
    """Return the library's network in eval mode with weights, statistics and singular vectors that matter."""
    library = pytest.importorskip("pytorch_pretrained_biggan.model")
    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = library.BigGAN(library.BigGANConfig(**asdict(configuration))).requires_grad_(False)
    network.embeddings.weight.normal_(generator=draw)
    for module in network.modules():
        if hasattr(module, "running_means"):
            module.running_means.normal_(0, 0.3, generator=draw)
            module.running_vars.uniform_(0.5, 1.5, generator=draw)
        if hasattr(module, "conditional") and not module.conditional:
            module.weight.normal_(1.5, 0.2, generator=draw)
            module.bias.normal_(0, 0.2, generator=draw)
        if hasattr(module, "gamma"):
            module.gamma.fill_(0.7)
        for normalize in module._forward_pre_hooks.values():
            for _ in range(10):
                normalize(module.train(), None)
    return network.eval()


def write(folder, configuration, network):
    """Write the layout of the published archive; return the folder's path as text."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(asdict(configuration)))
    torch.save(network.state_dict(), folder / "pytorch_model.bin")
    return str(folder)


def make_tiny(folder, options="size=64"):
    """Write a tiny random network of the 128 px layout into `folder`; return the name that loads it."""
    weights = write(folder, TINY, random_network(TINY))
    return f"biggan-deep:128,weights={weights}" + (f",{options}" if options else "")


@pytest.fixture(scope="module")
def tiny():
    return random_network(TINY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny):
    return write(tmp_path_factory.mktemp("biggan"), TINY, tiny)


@pytest.fixture(scope="module")
def prior(folder):
    return BigGAN(128, weights=folder)


@pytest.fixture(scope="module")
def searched(folder):
    return BigGAN(128, weights=folder, search="class")


def draw(prior, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return prior.sample(n, generator), torch.randint(prior.num_classes or 1, (n,), generator=generator)


@pytest.mark.slow("networks of three resolutions")
@needs_library
@pytest.mark.parametrize("resolution", [128, 256, 512])
def test_images_are_the_librarys_at_every_resolution(resolution, tmp_path):
    """The published layers, attention, latents and classes; channel width 4 instead of 128."""
    configuration = replace(PUBLISHED[resolution], channel_width=4)
    network = random_network(configuration)
    prior = BigGAN(resolution, weights=write(tmp_path, configuration, network))
    z, labels = draw(prior, 2)
    expected = (network(z, F.one_hot(labels, 1000).float(), 1.0) + 1) / 2
    assert expected.std() > 0.05
    torch.testing.assert_close(prior.decode(z, labels), expected, rtol=0, atol=1e-5)


@needs_library
@pytest.mark.parametrize("truncation", [0.01, 0.4, 0.41, 0.58, 0.999])
def test_images_are_the_librarys_at_every_truncation(truncation, folder, tiny):
    """On a stored truncation, between two, and at 0.58, whose quotient by 0.02 is a little below 29."""
    prior = BigGAN(128, weights=folder, truncation=truncation)
    z, labels = draw(prior, 3)
    one_hot = F.one_hot(labels, TINY.num_classes).float()
    expected = (tiny(truncation * z, one_hot, truncation) + 1) / 2
    torch.testing.assert_close(prior.decode(z, labels), expected, rtol=0, atol=1e-5)


@needs_library
def test_truncation_changes_the_statistics_and_not_the_samples(prior, folder):
    half = BigGAN(128, weights=folder, truncation=0.5)
    z, labels = draw(prior, 2)
    assert torch.equal(draw(half, 2)[0], z)
    assert (half.decode(2 * z, labels) - prior.decode(z, labels)).abs().max() > 0.01


@pytest.mark.parametrize(
    ("resolution", "size", "digest"),
    [(128, 630, None), (256, 715, "edd106f65ff28ee1638491a978cfa6bc50dfa0344aab70749a7b8eb08bbec677")],
)
def test_the_configurations_are_the_published_files(resolution, size, digest):
    """Bytes of biggan-deep-128-config.json (its size on the Hugging Face hub) and biggan-deep-256's."""
    content = (json.dumps(asdict(PUBLISHED[resolution]), indent=2, sort_keys=True) + "\n").encode()
    assert len(content) == size
    assert digest in (None, hashlib.sha256(content).hexdigest())


@needs_library
@pytest.mark.parametrize(("resolution", "millions"), [(128, 50.4), (256, 55.9), (512, 56.2)])
def test_the_true_networks_have_the_published_parameters(resolution, millions):
    """The library's README states them. On the meta device: nothing is allocated."""
    library = importlib.import_module("pytorch_pretrained_biggan.model")
    with torch.device("meta"):
        network = library.BigGAN(library.BigGANConfig(**asdict(PUBLISHED[resolution])))
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


@needs_library
def test_nothing_is_left_to_normalize(prior):
    """No singular vectors, no statistics, and three output channels."""
    names = prior.state_dict()
    assert not [name for name in names if "weight_" in name or "running" in name]
    assert names["generator.conv_to_rgb.weight"].shape == (3, TINY.channel_width, 3, 3)


@pytest.mark.parametrize("shape", [(3, 5), (4, 3, 2, 2)])
def test_spectral_norms_fold_to_weights_of_norm_one(shape):
    """With the first singular vectors themselves, W / σ has largest singular value 1."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, values, right = torch.linalg.svd(weight.flatten(1))
    state = {"a.weight_orig": weight, "a.weight_u": left[:, 0], "a.weight_v": right[0], "a.bias": weight}
    folded = fold_spectral_norm(state, biggan.Path("file"))
    assert folded.keys() == {"a.weight", "a.bias"}
    torch.testing.assert_close(folded["a.weight"], weight / values[0])
    assert torch.equal(folded["a.bias"], weight)


@needs_library
def test_searched_classes_reach_every_class(prior, searched):
    """u = Σ^-½ (e_k - m) is class k: 40 classes span the 16 embedding coordinates."""
    assert (searched.num_classes, searched.latent_dim) == (None, 32)
    z, labels = draw(prior, 4)
    centered = prior.embeddings - prior.embeddings.mean(0)
    values, vectors = np.linalg.eigh(np.cov(prior.embeddings.numpy().T))
    whitening = torch.tensor(vectors / np.sqrt(values) @ vectors.T, dtype=torch.float32)
    u = (centered @ whitening)[labels]
    images = searched.decode(torch.cat((z, u), 1))
    torch.testing.assert_close(images, prior.decode(z, labels), rtol=0, atol=1e-5)
    assert torch.equal(searched.decode(torch.cat((z, u), 1), labels + 1000), images)


@needs_library
def test_whitened_classes_are_standard_normal_in_mean_and_covariance(prior, searched):
    embeddings = prior.embeddings.numpy()
    root = searched.embedding_root.numpy()
    np.testing.assert_allclose(root, root.T, atol=1e-6)
    np.testing.assert_allclose(root @ root, np.cov(embeddings.T), atol=1e-5)
    np.testing.assert_allclose(searched.embedding_mean.numpy(), embeddings.mean(0), atol=1e-6)


@needs_library
def test_a_size_is_reached_by_area_means(prior, folder):
    small = BigGAN(128, weights=folder, size=32)
    z, labels = draw(prior, 2)
    assert (small.image_shape, prior.image_shape) == ((3, 32, 32), (3, 128, 128))
    expected = prior.decode(z, labels).unflatten(3, (32, 4)).unflatten(2, (32, 4)).mean((3, 5))
    torch.testing.assert_close(small.decode(z, labels), expected, rtol=0, atol=1e-6)


@needs_library
@pytest.mark.parametrize("options", ["", ",size=8,truncation=0.4,search=class"])
def test_the_name_loads_the_same_prior(options, folder):
    prior = load_prior(f"biggan-deep:128,weights={folder}{options}")
    again = load_prior(prior.name)
    assert prior.name == again.name == f"biggan-deep:128,weights={folder}{options}"
    z, labels = draw(prior, 2)
    assert torch.equal(prior.decode(z, labels), again.decode(z, labels))


@needs_library
def test_options_at_their_defaults_are_not_in_the_name(folder):
    prior = load_prior(f"biggan-deep:128,search=z,truncation=1,weights={folder}")
    assert prior.name == f"biggan-deep:128,weights={folder}"


@needs_library
def test_an_image_does_not_depend_on_its_neighbors(prior):
    z, labels = draw(prior, 5)
    together = prior.decode(z, labels)
    assert torch.equal(together, prior.decode(z, labels))
    torch.testing.assert_close(prior.decode(z[3:4], labels[3:4])[0], together[3], rtol=0, atol=1e-5)


@needs_library
def test_latents_that_overflow_give_gray(prior, tiny):
    """Scales are affine in z: far out the library's network overflows to NaN."""
    z, labels = torch.full((1, 16), 1e4), torch.tensor([0])
    assert tiny(z, F.one_hot(labels, 40).float(), 1.0).isnan().all()
    assert (prior.decode(z, labels) == 0.5).all()


@needs_library
def test_loading_draws_no_random_numbers(folder):
    before = torch.get_rng_state()
    BigGAN(128, weights=folder)
    assert torch.equal(torch.get_rng_state(), before)


@needs_library
def test_double_precision_reaches_the_images(folder):
    prior = BigGAN(128, weights=folder).double()
    z, labels = draw(prior, 1)
    shift = 1e-8 * torch.ones(1, 16, dtype=torch.float64)
    difference = prior.decode(z.double() + shift, labels) - prior.decode(z.double(), labels)
    assert 0 < difference.abs().max() < 1e-6


@needs_library
def test_a_file_alone_is_of_the_published_configuration(prior, tmp_path, tiny, monkeypatch):
    monkeypatch.setitem(PUBLISHED, 128, TINY)
    save_file(tiny.state_dict(), tmp_path / "weights.safetensors")
    alone = BigGAN(128, weights=str(tmp_path / "weights.safetensors"))
    z, labels = draw(alone, 1)
    assert torch.equal(alone.decode(z, labels), prior.decode(z, labels))


@needs_library
def test_without_a_path_the_catalogs_entry_is_read(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(biggan, "locate", lambda name: asked.append(name) or biggan.Path(folder))
    assert BigGAN(128).name == "biggan-deep:128"
    assert asked == ["biggan-deep-128"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("64", "expected a resolution of 128, 256 or 512, found 64"),
        ("128,size=129", "expected a size from 1 to 128, found 129"),
        ("128,size=0", "expected a size from 1 to 128, found 0"),
        ("128,truncation=0", "expected a truncation above 0, at most 1, found 0"),
        ("128,truncation=1.5", "expected a truncation above 0, at most 1, found 1.5"),
        ("128,truncation=nan", "expected a truncation above 0, at most 1, found nan"),
        ("128,search=label", "no value of search is named 'label'"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        load_prior(f"biggan-deep:{options}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_stats": None}, "expected the fields attention_layer_position, .*, z_dim, found "),
        ({"more": 1}, "expected the fields .*, found .*'more'"),
        ({"z_dim": 8.0}, r"expected a positive whole number for z_dim, found 8\.0"),
        ({"num_classes": 0}, "expected a positive whole number for num_classes, found 0"),
        ({"channel_width": True}, "expected a positive whole number for channel_width, found True"),
        ({"eps": "1e-4"}, "expected a number between 0 and 1 for eps, found '1e-4'"),
        ({"eps": -1e-4}, "expected a number between 0 and 1 for eps, found -0.0001"),
        ({"layers": []}, r"expected layers as .*, found \[\]"),
        ({"layers": [[1, 16, 16]]}, r"expected layers as .*, found \[\[1, 16, 16\]\]"),
        ({"output_dim": 256}, "expected output_dim 128, found 256"),
        ({"layers": PUBLISHED[256].layers}, "expected layers that reach 128 px, found 256 px"),
        ({"layers": [[False, 8, 16], *PUBLISHED[128].layers]}, "expected layers from width 16 to 1"),
        ({"layers": [[True, 16, 1]] * 5}, "expected layers from width 16 to 1, kept or halved by each"),
        ({"attention_layer_position": 10}, "expected attention before one of 10 layers, found 10"),
        ({"class_embed_dim": 9}, "expected class_embed_dim as z_dim, 16, found 9"),
        ({"channel_width": 6}, "expected channel_width in multiples of 4, found 6"),
        ({"n_stats": 1}, "expected n_stats of at least 2, found 1"),
        ({"attention_layer_position": 0, "channel_width": 4}, None),
    ],
)
def test_configurations_that_do_not_hold_are_refused(change, message, tmp_path):
    content = {**asdict(TINY), **change}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))
    if message is None:
        assert read_configuration(path, 128).attention_layer_position == 0
        return
    with pytest.raises(WeightsError, match=f"config.json: {message}"):
        read_configuration(path, 128)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000])
def test_configurations_that_are_no_json_are_refused(content, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(WeightsError, match="expected BigGAN's configuration in JSON, found none"):
        read_configuration(tmp_path / "config.json", 128)


@needs_library
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("generator.bn.weight", None, "'generator.bn.weight' is missing"),
        ("generator.layers.11.gamma", torch.zeros(1), "'generator.layers.11.gamma' is unknown"),
        (
            "embeddings.weight",
            torch.zeros(16, 41),
            r"'embeddings.weight' of shape \(16, 40\), found \(16, 41\)",
        ),
        ("generator.bn.bias", torch.full((4,), math.nan), "expected finite numbers in 'generator.bn.bias'"),
        (
            "generator.bn.bias",
            torch.ones(4, dtype=torch.int64),
            "expected finite numbers in 'generator.bn.bias'",
        ),
        (
            "generator.gen_z.weight_v",
            torch.zeros(32),
            "generator.gen_z: expected a positive spectral norm, found 0",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(name, value, message, tiny, tmp_path):
    state = {**tiny.state_dict(), name: value}
    (tmp_path / "config.json").write_text(json.dumps(asdict(TINY)))
    torch.save({k: v for k, v in state.items() if v is not None}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=f"pytorch_model.bin: .*{message}"):
        BigGAN(128, weights=str(tmp_path))


@needs_library
def test_weights_of_another_resolution_are_refused(tmp_path):
    """The 512 px network begins with all tensors of the 256 px one."""
    layout = {"channel_width": 4, "z_dim": 8, "class_embed_dim": 8, "num_classes": 20}
    network = random_network(replace(PUBLISHED[512], **layout))
    write(tmp_path, replace(PUBLISHED[256], **layout), network)
    with pytest.raises(WeightsError, match=r"'generator.layers.13.bn_0.running_means' is unknown"):
        BigGAN(256, weights=str(tmp_path))


def test_a_path_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(
        WeightsError, match=r"expected a folder with pytorch_model\.bin, or a file of tensors"
    ):
        BigGAN(128, weights=str(tmp_path / "none"))
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin: expected a weights file"):
        BigGAN(128, weights=str(tmp_path))


def test_code_in_a_weights_file_is_refused(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(print, protocol=2))
    with pytest.raises(WeightsError, match="expected tensors only, found a plain pickle"):
        BigGAN(128, weights=str(tmp_path))


@needs_library
def test_a_missing_library_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_pretrained_biggan.model", None)
    with pytest.raises(
        InputError, match=r'needs a package: pip install "pytorch-pretrained-biggan>=0\.1\.1"'
    ):
        BigGAN(128, weights=folder)
