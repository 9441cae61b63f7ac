"""A user's own network by class and file: how it is called is found; what is wrong is one line."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ggl.base.errors import InputError, UnknownNameError, UserCodeError, WeightsError
from ggl.generators import load_prior
from ggl.generators.contract import check_prior

SHAPE = (1, 6, 6)


class Flat(nn.Module):
    """(n, d) to images; options without annotations, as most people write them."""

    def __init__(self, latent_dim=5, width=8, deep=False, end="tanh"):
        super().__init__()
        assert isinstance(width, int)
        assert isinstance(deep, bool)
        inner = [nn.Linear(width, width), nn.ReLU()] if deep else []
        last = {"tanh": nn.Tanh(), "sigmoid": nn.Sigmoid(), "none": nn.Identity()}[end]
        self.net = nn.Sequential(nn.Linear(latent_dim, width), nn.ReLU(), *inner, nn.Linear(width, 36), last)

    def forward(self, z):
        return self.net(z).view(-1, *SHAPE)


class Rows(Flat):
    """(n, d) to rows of pixels."""

    def forward(self, z):
        return self.net(z)


class Maps(nn.Module):
    """(n, d, 1, 1) to images, as DCGAN."""

    def __init__(self, nz: int, ngf: int = 4, nc: int = 3):
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(nz, ngf, 4),
            nn.BatchNorm2d(ngf),
            nn.ReLU(),
            nn.ConvTranspose2d(ngf, nc, 4, 2, 1),
            nn.Tanh(),
        )

    def forward(self, input):  # noqa: A002
        return self.main(input)


class Table(nn.Module):
    """Labels by number; the latent dimension is nowhere but in the width of a layer."""

    def __init__(self, n_classes=4):
        super().__init__()
        self.embed = nn.Embedding(n_classes, 3)
        self.net = nn.Linear(3 + 5, 36)

    def forward(self, z, labels):
        return torch.tanh(self.net(torch.cat([z, self.embed(labels)], 1))).view(-1, *SHAPE)


class LabelsFirst(Table):
    def forward(self, labels, noise):
        return super().forward(noise, labels)


class Optional(Table):
    def forward(self, z, y=None):
        return super().forward(z, torch.zeros(len(z), dtype=torch.long) if y is None else y)


class OneHot(nn.Module):
    def __init__(self, z_dim=5, num_classes=4):
        super().__init__()
        self.net = nn.Linear(z_dim + num_classes, 36)

    def forward(self, z, c):
        return torch.tanh(self.net(torch.cat([z, c], 1))).view(-1, *SHAPE)


class OneHotMaps(nn.Module):
    """Two branches of one pixel, as in cDCGAN."""

    def __init__(self, d=5):
        super().__init__()
        self.a, self.b = nn.ConvTranspose2d(d, 4, 3), nn.ConvTranspose2d(4, 4, 3)
        self.end = nn.ConvTranspose2d(8, 1, 4, 2, 1)

    def forward(self, input, label):  # noqa: A002
        return torch.tanh(self.end(F.relu(torch.cat([self.a(input), self.b(label)], 1))))


class OneHotInside(nn.Module):
    """Labels by number, made one-hot in `forward`: no module says how many classes there are."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(5 + 4, 36)

    def forward(self, z, labels):
        return torch.tanh(self.net(torch.cat([z, F.one_hot(labels, 4)], 1))).view(-1, *SHAPE)


class Three(Table):
    def forward(self, z, labels, code):
        return super().forward(z, labels)


class Ignoring(OneHot):
    def forward(self, z, c):
        return super().forward(z, torch.zeros_like(F.one_hot(c, 4)))


class Tuple(Flat):
    def forward(self, z):
        return super().forward(z), z


class Noisy(Flat):
    def forward(self, z):
        return super().forward(z + torch.randn_like(z))


class Raising(Flat):
    def __init__(self, latent_dim=5):
        super().__init__(latent_dim)
        raise KeyError("opt")


class Configured(nn.Module):
    def __init__(self, opt):
        super().__init__()
        self.net = nn.Linear(opt.latent_dim, 36)


def with_options(width=8):
    """What needs an object is made by a function."""
    return Flat(5, width)


class Whole(Flat):
    """A prior's parts already."""

    latent_dim, image_shape = 5, SHAPE

    def decode(self, z, labels=None):
        return (self(z) + 1) / 2


@pytest.fixture(autouse=True)
def mynets(monkeypatch):
    module = ModuleType("mynets")
    module.__spec__ = ModuleSpec("mynets", None)
    for thing in (Flat, Rows, Maps, Table, LabelsFirst, Optional, OneHot, OneHotMaps, OneHotInside, Three):
        setattr(module, thing.__name__, thing)
    for thing in (Ignoring, Noisy, Tuple, Raising, Configured, with_options, Whole):
        setattr(module, thing.__name__, thing)
    monkeypatch.setitem(sys.modules, "mynets", module)


def made(make, *arguments, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make(*arguments)
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.5)
        d = 5 if not isinstance(network, Maps) else network.main[0].in_channels
        for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.momentum = None
            with torch.no_grad():
                network(torch.randn(256, d, 1, 1))
    return network.eval()


def saved(folder, network, name="G.pth", prefix=""):
    torch.save({prefix + key: value for key, value in network.state_dict().items()}, folder / name)
    return folder / name


def onehot(labels):
    return F.one_hot(labels, 4).float()


CALLS = {
    "Flat": (Flat, (), "latents (n, 5)", lambda net, z, y: net(z)),
    "Flat,latent_dim=5,width=6,deep=1": (Flat, (5, 6, True), "latents (n, 5)", lambda net, z, y: net(z)),
    "Rows": (Rows, (), "latents (n, 5)", lambda net, z, y: net(z).view(-1, *SHAPE)),
    "Maps,nz=7": (Maps, (7,), "latents (n, 7, 1, 1)", lambda net, z, y: net(z[:, :, None, None])),
    "Table": (Table, (), "latents (n, 5), then labels by number, 4 classes", lambda net, z, y: net(z, y)),
    "LabelsFirst": (
        LabelsFirst,
        (),
        "labels by number, 4 classes, then latents (n, 5)",
        lambda net, z, y: net(y, z),
    ),
    "Optional": (
        Optional,
        (),
        "latents (n, 5), then labels by number, 4 classes",
        lambda net, z, y: net(z, y),
    ),
    "Optional,labels=none": (Optional, (), "latents (n, 5)", lambda net, z, y: net(z)),
    "OneHot": (
        OneHot,
        (),
        "latents (n, 5), then labels one-hot, 4 classes",
        lambda net, z, y: net(z, onehot(y)),
    ),
    "OneHotMaps,num_classes=4": (
        OneHotMaps,
        (),
        "latents (n, 5, 1, 1), then labels one-hot, as maps of one pixel, 4 classes",
        lambda net, z, y: net(z[:, :, None, None], onehot(y)[:, :, None, None]),
    ),
    "OneHotInside,num_classes=4": (
        OneHotInside,
        (),
        "latents (n, 5), then labels by number, 4 classes",
        lambda net, z, y: net(z, y),
    ),
    "Flat,latent_dim=9,num_classes=4,labels=last": (
        Flat,
        (9,),
        "latents (n, 9), 4 labels one-hot among them, last",
        lambda net, z, y: net(torch.cat([z, onehot(y)], 1)),
    ),
    "Maps,nz=11,num_classes=4,labels=first": (
        Maps,
        (11,),
        "latents (n, 11, 1, 1), 4 labels one-hot among them, first",
        lambda net, z, y: net(torch.cat([onehot(y), z], 1)[:, :, None, None]),
    ),
    "with_options,width=6": (Flat, (5, 6), "latents (n, 5)", lambda net, z, y: net(z)),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("prefix", ["", "module.", "generator."])
def test_it_decodes_the_networks_own_images(tmp_path, name, prefix):
    make, arguments, words, call = CALLS[name]
    network = made(make, *arguments)
    specification = f"mynets:{name},weights={saved(tmp_path, network, prefix=prefix)},range=tanh"
    prior = load_prior(specification)
    z = torch.randn(6, prior.latent_dim, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(6) % (prior.num_classes or 1)
    with torch.no_grad():
        own = (call(network, z, labels) + 1) / 2
    torch.testing.assert_close(prior.decode(z, labels), own, rtol=0, atol=1e-6)
    assert prior.name == specification
    assert prior.image_shape == own.shape[1:]
    assert prior.num_classes == (4 if "labels" in words else None)
    assert prior.assumed[0] == f"called with {words}"
    assert prior.doubts == ()
    assert [finding for finding in check_prior(prior) if finding.problem] == []


@pytest.mark.parametrize(
    ("end", "asked", "low", "high"),
    [
        ("tanh", "", -1, 1),
        ("sigmoid", "", 0, 1),
        ("sigmoid", ",range=sigmoid", 0, 1),
        ("none", ",range=-9:7", -9, 7),
    ],
)
def test_the_range_is_found_or_asked_for(tmp_path, end, asked, low, high):
    network = made(Flat, 5, 8, False, end)
    prior = load_prior(f"mynets:Flat,end={end},weights={saved(tmp_path, network)}{asked}")
    z = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    own = ((network(z).detach() - low) / (high - low)).clamp(0, 1)
    torch.testing.assert_close(prior.decode(z), own, rtol=0, atol=1e-6)
    said = f"values from {low} to {high}, as its samples are (range=)"
    assert (said in prior.assumed) == (asked == "")


def test_another_size_is_the_mean_over_areas(tmp_path):
    path = saved(tmp_path, made(Flat))
    z = torch.randn(2, 5, generator=torch.Generator().manual_seed(1))
    whole, small = (load_prior(f"mynets:Flat,weights={path}{size}") for size in ("", ",size=3"))
    assert small.image_shape == (1, 3, 3)
    torch.testing.assert_close(small.decode(z), F.avg_pool2d(whole.decode(z), 2))


def test_a_colon_does_as_well_as_a_comma_and_an_object_as_a_class(tmp_path):
    path = saved(tmp_path, made(Flat))
    sys.modules["mynets"].network = Flat()
    z = torch.randn(2, 5, generator=torch.Generator().manual_seed(1))
    first = load_prior(f"mynets:Flat:weights={path}").decode(z)
    assert torch.equal(first, load_prior(f"mynets:network,weights={path}").decode(z))
    assert torch.equal(first, load_prior("mynets:network,weights=own").decode(z))


def test_an_entry_of_a_checkpoint(tmp_path):
    network = made(Flat)
    torch.save({"epoch": 3, "mine": network.state_dict()}, tmp_path / "all.pt")
    z = torch.randn(2, 5, generator=torch.Generator().manual_seed(1))
    prior = load_prior(f"mynets:Flat,weights={tmp_path}/all.pt,key=mine")
    torch.testing.assert_close(prior.decode(z), (network(z).detach() + 1) / 2)


def test_it_is_in_eval_mode_and_draws_nothing(tmp_path):
    path = saved(tmp_path, made(Maps, 7))
    before = torch.get_rng_state()
    prior = load_prior(f"mynets:Maps,nz=7,weights={path}")
    assert torch.equal(before, torch.get_rng_state())
    assert not any(module.training for module in prior.modules())
    assert not any(parameter.requires_grad for parameter in prior.parameters())


def test_normalizations_that_do_not_fit_are_a_doubt(tmp_path):
    network = made(Maps, 7)
    network.main[1].running_mean += 3
    (doubt,) = load_prior(f"mynets:Maps,nz=7,weights={saved(tmp_path, network)}").doubts
    assert "its batch normalizations meet other values than in training" in doubt


def test_what_has_a_priors_parts_is_taken_as_it_is(tmp_path):
    assert load_prior("mynets:Whole").decode(torch.zeros(1, 5)).shape == (1, *SHAPE)
    with pytest.raises(InputError, match=r"expected a network for weights=a.pth, found Whole, a prior"):
        load_prior("mynets:Whole,weights=a.pth")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Flat", "expected the file of its weights, weights=FILE"),
        ("Flat,weights=FILE,range=wide", "range: expected tanh, sigmoid or LOW:HIGH"),
        ("Flat,weights=FILE,with=3", "no option of prior mynets is named 'with'"),
        (
            "Flat,weights=FILE,latent_dim=6",
            r"'net.0.weight': expected float \[8, 6\], found float \[8, 5\]",
        ),
        ("Flat,weights=FILE,deep=1", "'net.4.weight': expected float .*, found no such tensor"),
        ("Flat,weights=FILE,width=a", "expected a number for width, found 'a'"),
        ("Flat,weights=FILE,size=7", "expected a size of 1 to 6 pixels, found 7"),
        ("Flat,weights=FILE,end=none", r"expected values from -1 to 1 \(tanh\), found .* range=LOW:HIGH"),
        ("Flat,weights=FILE,range=sigmoid", r"expected values from 0 to 1 \(sigmoid\), found -"),
        ("Maps,weights=FILE", "expected a value of nz after the colon, found none"),
        (
            "Tuple,weights=FILE",
            r"found none in 4 ways to call it: with latents \(n, 5\): a tuple; say latent_dim=",
        ),
        ("Noisy,weights=FILE", "expected the same image for the same latent, found another: it draws noise"),
        ("Raising,weights=FILE", "raised KeyError: 'opt'"),
        (
            "Configured,opt=3,weights=FILE",
            "raised AttributeError: 'int' object has no attribute 'latent_dim'",
        ),
        ("Missing,weights=FILE", "mynets has no 'Missing'"),
        ("Flat,weights=none.pth", "none.pth: expected a weights file, but it cannot be read"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, name, words):
    path = saved(tmp_path, made(Flat))
    with pytest.raises((InputError, UnknownNameError, UserCodeError, WeightsError), match=words) as refusal:
        load_prior("mynets:" + name.replace("FILE", str(path)))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (Three, "", "found one that takes 3 arguments; write an own prior"),
        (OneHotInside, "", "nothing says how it is called: give num_classes="),
        (
            Ignoring,
            "",
            r"then labels by number, 4 classes: pictures in which labels change nothing",
        ),
        (OneHotMaps, ",num_classes=3", r"found none in .*; say latent_dim=, num_classes= and labels="),
        (
            Table,
            ",labels=onehot",
            r"found none in 6 ways to call it: with latents \(n, 5\), then labels one-hot, 4 classes: ",
        ),
        (Table, ",latent_dim=6", r"with latents \(n, 6\), then labels by number, 4 classes: RuntimeError: "),
    ],
)
def test_calls_that_make_no_images_are_one_line(tmp_path, make, options, words):
    with pytest.raises(InputError, match=words) as refusal:
        load_prior(f"mynets:{make.__name__},weights={saved(tmp_path, made(make))}{options}")
    assert "\n" not in str(refusal.value)
