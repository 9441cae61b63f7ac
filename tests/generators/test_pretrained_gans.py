"""The adapter, on a stand-in with the library's interface: the library is not on the package index."""

import pickle
import sys
import zipfile
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import pytest
import torch

from ggl.base.errors import InputError, UserCodeError, WeightsError
from ggl.generators import load_prior
from ggl.generators.contract import check_prior


class Wrapper(torch.nn.Module):
    """The library's `GeneratorWrapper`: (z, y) to [-1, 1]; NumPy's global state is used as there."""

    def __init__(self, num_classes, scale, size=8):
        super().__init__()
        self.dim_z, self.conditional, self.num_classes = 5, num_classes is not None, num_classes
        self.scale, self.size = scale, size
        self.weight = torch.nn.Parameter(torch.linspace(-1, 1, 5 * 3 * size**2).view(5, -1))

    def forward(self, z, y=None):
        shift = 0 if y is None else y[:, None] / 10
        return torch.tanh(z @ self.weight.to(z) + shift).unflatten(1, (3, self.size, self.size))

    def sample_latent(self, batch_size=None, device="cpu"):
        return torch.from_numpy(self.scale * np.random.randn(batch_size, 5)).float().to(device)


class Plain(Wrapper):
    def forward(self, z):
        return super().forward(z)


class StrangeError(Exception):
    """Of the library's own, and of more lines than one."""


class Broken(Wrapper):
    """Raises when it is used."""

    def __init__(self, where):
        super().__init__(None, 1.0)
        self.where = where

    def forward(self, z):
        if self.where == "forward":
            raise StrangeError("no kernel\nfor this device")
        return torch.zeros(len(z), 3)

    def sample_latent(self, batch_size=None, device="cpu"):
        if self.where == "sample":
            raise StrangeError("no sample")
        return super().sample_latent(batch_size, device)


class Bare(torch.nn.Module):
    dim_z, conditional = 5, False


RAISED = {
    "pickled": pickle.UnpicklingError("Weights only load failed\nin so many words"),
    "zipped": zipfile.BadZipFile("not a zip"),
    "strange": StrangeError("first line\nsecond line"),
    "attribute": AttributeError("no attribute"),
    "index": IndexError("list index"),
    "quitting": SystemExit(1),
    "silent": Exception(),
}


def make_gan(*, gan_type, model_name="small"):
    if model_name == "gone":
        raise OSError("no network")
    if gan_type == "needs":
        raise ImportError("omegaconf")
    if gan_type in RAISED:
        raise RAISED[gan_type]
    torch.rand(1)
    if gan_type in ("forward", "sample", "shape"):
        return Broken(gan_type)
    kinds = {"bare": Bare, "biggan": lambda: Wrapper(7, 0.5), "bigbigan": lambda: Plain(None, 1.0)}
    if gan_type not in kinds:
        raise NotImplementedError(f"Unrecognized GAN type: {gan_type}")
    return kinds[gan_type]()


@pytest.fixture
def library(monkeypatch):
    module = ModuleType("pytorch_pretrained_gans")
    module.make_gan = make_gan
    module.__spec__ = ModuleSpec(module.__name__, None)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.delenv("GGL_OFFLINE", raising=False)


@pytest.mark.parametrize(("gan", "classes"), [("biggan", 7), ("bigbigan", None)])
def test_a_gan_of_the_library_keeps_the_contract(library, gan, classes):
    prior = load_prior(f"pretrained-gan:{gan}")
    assert (prior.num_classes, prior.image_shape, prior.latent_dim) == (classes, (3, 8, 8), 5)
    assert [f for f in check_prior(prior) if f.problem] == []


def test_coordinates_are_scaled_as_the_librarys_own_latents(library):
    """512 draws of 5: the standard deviation's own error is 0.5 / sqrt(2 * 2560) = 0.007."""
    prior = load_prior("pretrained-gan:biggan")
    assert prior.scale == pytest.approx(0.5, abs=5 * 0.007)
    z, y = torch.randn(2, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 2])
    torch.testing.assert_close(prior.decode(z, y), (prior.gan(prior.scale * z, y) + 1) / 2)


def test_images_are_resized_by_area_and_the_name_says_so(library):
    small, whole = (load_prior(name) for name in ("pretrained-gan:biggan,size=4", "pretrained-gan:biggan"))
    assert small.name == "pretrained-gan:biggan,size=4"
    z, y = torch.zeros(1, 5), torch.tensor([3])
    by_hand = whole.decode(z, y).unflatten(3, (4, 2)).unflatten(2, (4, 2)).mean((3, 5))
    torch.testing.assert_close(small.decode(z, y), by_hand)


def test_loading_leaves_global_random_states_alone(library):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    load_prior("pretrained-gan:biggan")
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("other", "makes no GAN of type 'other'"),
        ("stylegan2", "use the prior stylegan2:FILE.pkl instead"),
        ("biggan,model=gone", "cannot load 'biggan', model 'gone'"),
        ("bare", "found 'bare' without sample_latent"),
        ("biggan,size=0", "expected a size of at least 1, found 0"),
        ("needs", "lacks a package of its own"),
        ("pickled", r"cannot load 'pickled', model None \(UnpicklingError: Weights only load failed"),
        ("zipped", r"\(BadZipFile: not a zip"),
        ("strange", r"\(StrangeError: first line"),
        ("attribute", r"\(AttributeError: no attribute"),
        ("index", r"\(IndexError: list index"),
        ("quitting", r"\(SystemExit: 1"),
        ("silent", r"model None \(Exception"),
        ("forward", "prior pretrained-gan:forward raised StrangeError: no kernel"),
        ("sample", "prior pretrained-gan:sample raised StrangeError: no sample"),
        ("shape", r"expected images \(n, c, h, w\), found the shape \(1, 3\)$"),
    ],
)
def test_what_the_library_cannot_give_is_one_line(library, name, words):
    with pytest.raises((InputError, WeightsError, UserCodeError), match=words) as refusal:
        load_prior(f"pretrained-gan:{name}")
    assert "\n" not in str(refusal.value)


def test_offline_the_library_is_not_asked(library, monkeypatch):
    monkeypatch.setenv("GGL_OFFLINE", "1")
    with pytest.raises(WeightsError, match="GGL_OFFLINE forbids that"):
        load_prior("pretrained-gan:biggan")


def test_without_the_library_the_install_line_is_said():
    if "pytorch_pretrained_gans" in sys.modules:
        pytest.skip("the library is installed")
    with pytest.raises(InputError, match=r"pip install git\+https://"):
        load_prior("pretrained-gan:biggan")
