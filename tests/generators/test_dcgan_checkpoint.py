"""DCGAN generators of other people's training: the same images as their own network, or a clear refusal."""

import re

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from ggl.base.errors import InputError, WeightsError
from ggl.base.weight_files import weight_catalog
from ggl.generators.dcgan_checkpoint import DCGAN, DigiFace

WIDTHS = (6, 16, 12, 8, 3)


def network(widths=WIDTHS, kernels=None, bias=False, affine=True, norms=True, seed=0):
    """The generator of the PyTorch DCGAN example, in eval mode, with statistics that do something."""
    kernels = kernels or [4] * (len(widths) - 1)
    layers = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for i, kernel in enumerate(kernels):
            stride, padding = (2, (kernel - 2) // 2) if i else (1, 0)
            layers.append(nn.ConvTranspose2d(widths[i], widths[i + 1], kernel, stride, padding, bias=bias))
            nn.init.normal_(layers[-1].weight, std=0.25)
            if norms:
                layers.append(random_norm(widths[i + 1], affine))
            layers.append(nn.ReLU())
    end = len(layers) - (2 if norms else 1)
    return nn.Sequential(*layers[:end], nn.Tanh()).eval().requires_grad_(False)


def random_norm(channels, affine):
    norm = nn.BatchNorm2d(channels, affine=affine)
    norm.running_mean.normal_(std=0.3)
    norm.running_var.uniform_(0.3, 2)
    if affine:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.3)
    return norm


def make_tiny(folder) -> str:
    """Write a small random DCGAN of 32 px into `folder` and return the name that loads it."""
    torch.save({"netG_state_dict": network().state_dict(), "epoch": 3}, folder / "tiny.pth")
    return f"dcgan:{folder}/tiny.pth"


def write(folder, state, name="file.pth"):
    torch.save(state, folder / name)
    return str(folder / name)


def latents(n=5, d=WIDTHS[0]):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(1))


def assert_same_images(prior, plain):
    z = latents(d=prior.latent_dim)
    expected = (plain(z[:, :, None, None]) + 1) / 2
    assert expected.std() > 0.1
    torch.testing.assert_close(prior.decode(z), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": True},
        {"affine": False},
        {"norms": False},
        {"norms": False, "bias": True},
        {"widths": (5, 8, 6, 1)},
        {"kernels": [7, 4, 4, 4]},
        {"kernels": [4, 2, 4, 2], "bias": True},
    ],
)
def test_it_is_the_network_it_was_saved_from(tmp_path, options):
    plain = network(**options)
    prior = DCGAN(write(tmp_path, plain.state_dict()))
    assert_same_images(prior, plain)
    widths = options.get("widths", WIDTHS)
    side = options.get("kernels", [4])[0] * 2 ** (len(widths) - 2)
    assert prior.latent_dim == widths[0]
    assert prior.image_shape == (widths[-1], side, side)


@pytest.mark.parametrize("entry", [None, "netG_state_dict", "generator", "state_dict", "G", "mine"])
@pytest.mark.parametrize("prefix", ["", "main.", "module.main."])
def test_it_is_found_wherever_checkpoints_keep_it(tmp_path, entry, prefix):
    plain = network()
    state = {prefix + name: value for name, value in plain.state_dict().items()}
    others = {"epoch": 3, "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]}, "losses": [0.5]}
    content = state if entry is None else {**others, "netD": {"0.weight": torch.ones(3)}, entry: state}
    path = write(tmp_path, content)
    assert_same_images(DCGAN(path, key=entry if entry == "mine" else None), plain)


def test_a_key_may_be_the_prefix_of_the_tensors_names(tmp_path):
    plain = network()
    state = {f"generator.model.{name}": value for name, value in plain.state_dict().items()}
    state["critic.0.weight"] = torch.ones(4, 3, 4, 4)
    path = write(tmp_path, {"state_dict": state})
    with pytest.raises(WeightsError, match=r"found the parts generator, critic; name it with key=generator$"):
        DCGAN(path)
    assert_same_images(DCGAN(path, key="generator"), plain)
    write(tmp_path, state, "flat.pth")
    assert_same_images(DCGAN(str(tmp_path / "flat.pth"), key="generator.model"), plain)


def test_safetensors_are_ordered_by_the_numbers_in_their_names(tmp_path):
    """Equal widths: any order of the inner layers would fit, and "main.12" sorts before "main.3"."""
    plain = network(widths=(8, 8, 8, 8, 8, 3))
    state = {f"main.{name}": value for name, value in plain.state_dict().items()}
    save_file({name: state[name] for name in sorted(state)}, tmp_path / "file.safetensors")
    assert_same_images(DCGAN(str(tmp_path / "file.safetensors")), plain)


def test_all_convolutions_may_stand_before_the_normalizations(tmp_path):
    plain = network(widths=(8, 8, 8, 8, 3))
    names = [name for name, _ in plain.named_parameters() if plain[int(name[0])].weight.ndim == 4]
    state = plain.state_dict()
    state = {f"deconv{name}": state[name] for name in names} | {
        f"norm{name}": value for name, value in state.items() if name not in names
    }
    assert_same_images(DCGAN(write(tmp_path, state)), plain)


def test_half_precision_weights_give_float32_images(tmp_path):
    plain = network().half().float()
    prior = DCGAN(write(tmp_path, {name: v.half() for name, v in plain.state_dict().items()}))
    assert prior.decode(latents()).dtype == torch.float32
    torch.testing.assert_close(
        prior.decode(latents()), (plain(latents()[:, :, None, None]) + 1) / 2, rtol=0, atol=2e-3
    )


@pytest.mark.parametrize("size", [32, 16, 7, 1])
def test_a_smaller_size_is_the_mean_over_areas(tmp_path, size):
    whole = DCGAN(make_tiny(tmp_path).partition(":")[2])
    prior = DCGAN(str(tmp_path / "tiny.pth"), size=size)
    assert prior.image_shape == (3, size, size)
    assert prior.name == f"dcgan:{tmp_path}/tiny.pth,size={size}"
    images, reduced = whole.decode(latents()), prior.decode(latents())
    for i in range(size):
        rows = slice(i * 32 // size, -(-(i + 1) * 32 // size))
        expected = images[:, :, rows, : -(-32 // size)].mean((2, 3))
        torch.testing.assert_close(reduced[:, :, i, 0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [0, -1, 33])
def test_other_sizes_are_refused(tmp_path, size):
    make_tiny(tmp_path)
    with pytest.raises(InputError, match=f"size={size}: expected a size of 1 to 32 pixels, found {size}$"):
        DCGAN(str(tmp_path / "tiny.pth"), size=size)


def test_its_name_carries_its_options(tmp_path):
    make_tiny(tmp_path)
    path = str(tmp_path / "tiny.pth")
    assert DCGAN(path).name == f"dcgan:{path}"
    assert DCGAN(path, key="netG_state_dict", size=8).name == f"dcgan:{path},key=netG_state_dict,size=8"


def changed(**changes):
    """The state dict of a network with some tensors replaced; None removes one."""
    state = {**network().state_dict(), **{name.replace("_", ".", 1): v for name, v in changes.items()}}
    return {name: value for name, value in state.items() if value is not None}


def conv2d_network():
    """A discriminator: (out, in) where a generator has (in, out)."""
    return {"0.weight": torch.ones(8, 3, 4, 4), "1.weight": torch.ones(16, 8, 4, 4)}


@pytest.mark.parametrize(
    ("state", "found"),
    [
        (conv2d_network(), "1.weight of shape 16x8x4x4 after 0.weight of 8x3x4x4"),
        (changed(**{"3_weight": None}), "3 batch normalizations for 3 layers with weights"),
        (changed(**{"4_running_mean": None}), "4 with weight of shape 12, bias of shape 12, running_var"),
        (changed(**{"4_bias": torch.zeros(5)}), "4 with weight of shape 12, bias of shape 5, running_mean"),
        (changed(**{"9_weight": torch.ones(8, 2, 4, 4)}), "images of 2 channels, not 1 or 3 channels"),
        (changed(**{"9_bias": torch.ones(5)}), "9 with weight of shape 8x3x4x4, bias of shape 5"),
        (changed(**{"6_weight": torch.ones(12, 8, 4, 2)}), "6.weight with a kernel of 4x2"),
        (changed(**{"0_weight": torch.full((6, 16, 4, 4), torch.nan)}), "0.weight with values that are not"),
        (changed(**{"0_weight": torch.ones(6, 16, 4, 4).int()}), "0.weight with values that are not"),
        (
            changed(
                **{f"4_{name}": torch.ones(5) for name in ("weight", "bias", "running_mean", "running_var")}
            ),
            "4 of 5 features after 3 of 16x12x4x4",
        ),
        (
            {name: value for name, value in changed().items() if not name.startswith("4.")},
            r"room for 1 more without tensors .* behind 3 \(an instance normalization, .*\)",
        ),
        (
            {"fc.weight": torch.ones(100, 64), **changed()},
            "0.weight of shape 6x16x4x4 after fc.weight of 100x64",
        ),
        ({"0.weight": torch.ones(4, 3, 4, 4)}, "1 layers with weights"),
        ({"scale": torch.tensor(1.0)}, r"no module with scale of shape \(\)"),
    ],
)
def test_what_is_no_plain_generator_is_refused_in_one_line(tmp_path, state, found):
    path = write(tmp_path, state)
    way = r"give the network itself, MODULE:CLASS,weights=FILE, or write an own prior \(docs/add-a-prior.md\)"
    expected = f"{re.escape(path)}: expected the tensors of a plain generator, found ({found}).*; {way}"
    with pytest.raises(WeightsError, match=f"^{expected}$"):
        DCGAN(path)


def test_a_key_that_is_not_there_is_refused(tmp_path):
    make_tiny(tmp_path)
    message = "expected an entry 'netg', found epoch, netG_state_dict; name one of those with key=$"
    with pytest.raises(WeightsError, match=message):
        DCGAN(str(tmp_path / "tiny.pth"), key="netg")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3}, "'epoch' is not one"),
        ([torch.ones(3)], "found list"),
        ({"G": {"0.weight": 3}}, "'0.weight' is not one"),
    ],
)
def test_files_without_a_state_dict_are_refused(tmp_path, content, message):
    with pytest.raises(WeightsError, match=message):
        DCGAN(write(tmp_path, content))


def test_a_file_that_holds_code_is_refused_and_not_run(tmp_path):
    """A whole pickled module: what `torch.save(netG)` writes."""
    with pytest.raises(WeightsError, match=r"expected tensors only, found an object of .*; refused"):
        DCGAN(write(tmp_path, network()))


def test_a_file_that_is_missing_or_cut_short_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="cannot be read"):
        DCGAN(str(tmp_path / "none.pth"))
    make_tiny(tmp_path)
    content = (tmp_path / "tiny.pth").read_bytes()
    (tmp_path / "tiny.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match="damaged"):
        DCGAN(str(tmp_path / "tiny.pth"))


def test_loading_draws_nothing_at_random(tmp_path):
    make_tiny(tmp_path)
    before = torch.get_rng_state()
    DCGAN(str(tmp_path / "tiny.pth"))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def digiface():
    entry = weight_catalog.entries.get("digiface-dcgan64")
    if entry is None or not entry.is_here:
        pytest.skip("the weights of digiface-dcgan64 are not fetched")
    return entry.folder / "weights.tar"


def test_digiface_says_how_to_fetch_its_weights(tmp_path, monkeypatch):
    if "digiface-dcgan64" not in weight_catalog.entries:
        pytest.skip("the catalog has no entry of digiface-dcgan64")
    monkeypatch.setenv("GGL_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="ggl weights fetch digiface-dcgan64"):
        DigiFace()


def test_digiface_is_its_authors_network(digiface):
    plain = network((100, 512, 256, 128, 64, 3))
    state = torch.load(digiface, weights_only=True, map_location="cpu")["netG_state_dict"]
    plain.load_state_dict({name.removeprefix("main."): value for name, value in state.items()})
    prior = DigiFace()
    assert (prior.name, prior.latent_dim, prior.image_shape) == ("digiface-dcgan64", 100, (3, 64, 64))
    assert_same_images(prior, plain)


def test_digiface_in_another_size(digiface):
    prior = DigiFace(size=32)
    assert prior.name == "digiface-dcgan64:size=32"
    z = latents(d=100)
    expected = F.avg_pool2d(DigiFace().decode(z), 2)
    torch.testing.assert_close(prior.decode(z), expected, rtol=0, atol=1e-6)
