"""Generators as public repositories write them, out of their state dicts: the same images, or a question."""

import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from ggl.base.errors import InputError, UnknownNameError, WeightsError
from ggl.generators import load_prior
from ggl.generators.contract import check_prior

LEAKY = "activation=leaky-relu:0.2"
PYTORCH_GAN = f"{LEAKY},eps=0.8"


def block(inputs, outputs, normalize=True):
    """Of PyTorch-GAN: what is meant as a momentum is ε."""
    norm = [nn.BatchNorm1d(outputs, 0.8)] if normalize else []
    return [nn.Linear(inputs, outputs), *norm, nn.LeakyReLU(0.2)]


class MLP(nn.Module):
    """gan.py, wgan_gp.py of PyTorch-GAN."""

    def __init__(self, inputs=7, shape=(1, 12, 12)):
        super().__init__()
        self.shape = shape
        self.model = nn.Sequential(
            *block(inputs, 8, normalize=False),
            *block(8, 16),
            *block(16, 24),
            nn.Linear(24, int(np.prod(shape))),
            nn.Tanh(),
        )

    def forward(self, z):
        return self.model(z).view(len(z), *self.shape)


class ConditionalMLP(MLP):
    """cgan.py of PyTorch-GAN: the label's vector stands before the latent."""

    def __init__(self):
        super().__init__(7 + 5, (3, 8, 8))
        self.label_emb = nn.Embedding(5, 5)

    def forward(self, z, labels):
        return super().forward(torch.cat((self.label_emb(labels), z), -1))


class Upsampling(nn.Module):
    """dcgan.py of PyTorch-GAN, whose first normalization has torch's own ε."""

    def __init__(self, first=()):
        super().__init__()
        self.l1 = nn.Sequential(nn.Linear(6, 8 * 3**2), *first)
        self.conv_blocks = nn.Sequential(
            nn.BatchNorm2d(8),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(8, 8, 3, stride=1, padding=1),
            nn.BatchNorm2d(8, 0.8),
            nn.LeakyReLU(0.2),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(8, 4, 3, stride=1, padding=1),
            nn.BatchNorm2d(4, 0.8),
            nn.LeakyReLU(0.2),
            nn.Conv2d(4, 3, 3, stride=1, padding=1),
            nn.Tanh(),
        )

    def forward(self, z):
        return self.conv_blocks(self.l1(z).view(len(z), 8, 3, 3))


class Multiplied(Upsampling):
    """acgan.py of PyTorch-GAN: the label's vector times the latent."""

    def __init__(self):
        super().__init__()
        self.label_emb = nn.Embedding(4, 6)

    def forward(self, z, labels):
        return super().forward(self.label_emb(labels) * z)


class Collection(nn.Module):
    """Two linear layers, two transposed convolutions, everything normalized, a sigmoid."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(9, 16),
            nn.BatchNorm1d(16),
            nn.ReLU(),
            nn.Linear(16, 6 * 4 * 4),
            nn.BatchNorm1d(6 * 16),
            nn.ReLU(),
        )
        self.deconv = nn.Sequential(
            nn.ConvTranspose2d(6, 5, 4, 2, 1),
            nn.BatchNorm2d(5),
            nn.ReLU(),
            nn.ConvTranspose2d(5, 1, 4, 2, 1),
            nn.Sigmoid(),
        )

    def forward(self, z):
        return self.deconv(self.fc(z).view(-1, 6, 4, 4))


class Functional(nn.Module):
    """Layers by name, activations in `forward`; the label's vector stands after the latent."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(4, 3)
        self.fc1, self.fc2, self.fc3 = nn.Linear(8, 10), nn.Linear(10, 20), nn.Linear(20, 36)

    def forward(self, z, labels):
        x = torch.cat([z, self.embed(labels)], 1)
        x = F.leaky_relu(self.fc2(F.leaky_relu(self.fc1(x), 0.2)), 0.2)
        return torch.tanh(self.fc3(x)).view(-1, 1, 6, 6)


class OneHot(nn.Module):
    """One-hot labels after the latent, through a transposed convolution."""

    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(5 + 3, 6, 4),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.ConvTranspose2d(6, 3, 4, 2, 1),
            nn.Tanh(),
        )

    def forward(self, z, labels):
        return self.main(torch.cat([z, F.one_hot(labels, 3).float()], 1)[:, :, None, None])


class FromPixel(nn.Module):
    """Modules over latents of one pixel."""

    def __init__(self, *modules):
        super().__init__()
        self.main = nn.Sequential(*modules)

    def forward(self, z):
        return self.main(z[:, :, None, None])


def transposed(*layers, norm=True, activation=nn.ReLU, end=nn.Tanh):
    """(in, out, kernel, stride, padding, output padding) each."""
    modules = []
    for i, (inputs, outputs, *geometry) in enumerate(layers):
        modules.append(nn.ConvTranspose2d(inputs, outputs, *geometry))
        if i < len(layers) - 1:
            modules += [nn.BatchNorm2d(outputs), activation()] if norm else [activation()]
    return FromPixel(*modules, end())


def preactivated():
    """Activations before the normalizations, as the numbers show; a plain convolution at the end."""
    return FromPixel(
        nn.ConvTranspose2d(5, 8, 4),
        nn.ELU(),
        nn.BatchNorm2d(8),
        nn.ConvTranspose2d(8, 8, 4, 2, 1),
        nn.ELU(),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 3, 3, padding=1),
        nn.Tanh(),
    )


def unflattened():
    """All in one `Sequential`, shaping too."""
    return nn.Sequential(
        nn.Linear(6, 4 * 9),
        nn.ReLU(),
        nn.Unflatten(1, (4, 3, 3)),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(4, 4, 5, padding=2),
        nn.ReLU(),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(4, 1, 5, padding=2),
        nn.Tanh(),
    )


ZOO = {
    "mlp": (MLP, PYTORCH_GAN),
    "conditional mlp": (ConditionalMLP, f"{PYTORCH_GAN},join=first"),
    "upsampling": (Upsampling, f"{LEAKY},eps=1e-5/0.8/0.8,image_size=12"),
    "times": (Multiplied, f"{LEAKY},eps=1e-5/0.8/0.8,image_size=12,join=times"),
    "times, assumed": (Multiplied, f"{LEAKY},eps=1e-5/0.8/0.8,image_size=12"),
    "collection": (Collection, "activation=relu,range=sigmoid"),
    "functional": (Functional, f"{LEAKY},join=last"),
    "one-hot": (OneHot, "activation=relu,classes=3,join=last"),
    "kernels of 3 and 4": (
        lambda: transposed((5, 8, 4), (8, 6, 3, 2, 1), (6, 4, 4, 2, 1), (4, 1, 4, 2, 1)),
        "activation=relu,image_size=28",
    ),
    "kernels of 3, doubling": (
        lambda: transposed((5, 8, 4), (8, 6, 3, 2, 1, 1), (6, 3, 3, 2, 1, 1)),
        "activation=relu,image_size=16,strides=1/2/2",
    ),
    "kernels of 5, doubling": (
        lambda: transposed((5, 8, 4), (8, 6, 5, 2, 2, 1), (6, 3, 5, 2, 2, 1)),
        "activation=relu,image_size=16,strides=1/2/2",
    ),
    "kernels of 3 and 4, no padding": (
        lambda: transposed((5, 8, 3, 2), (8, 6, 4, 1), (6, 4, 3, 2), (4, 1, 4, 2)),
        "activation=relu,image_size=28,strides=2/1/2/2",
    ),
    "a kernel of 1 that crops": (
        lambda: transposed((5, 8, 4), (8, 6, 4, 2, 1), (6, 4, 4, 2, 1), (4, 3, 4, 2, 1), (3, 1, 1, 1, 2)),
        "activation=relu,image_size=28",
    ),
    "a kernel of 1 that keeps": (
        lambda: transposed((5, 8, 4), (8, 6, 4, 2, 1), (6, 1, 1, 1, 0)),
        "activation=relu",
    ),
    "without normalizations": (
        lambda: transposed((5, 8, 4), (8, 6, 4, 2, 1), (6, 1, 4, 2, 1), norm=False, activation=nn.SELU),
        "activation=selu",
    ),
    "activations before normalizations": (preactivated, "activation=elu"),
    "one sequential": (unflattened, "activation=relu,image_size=12"),
    "each its own activation": (
        lambda: nn.Sequential(
            nn.Linear(5, 8),
            nn.Tanh(),
            nn.Linear(8, 9),
            nn.ReLU(),
            nn.Linear(9, 48),
            nn.Unflatten(1, (3, 4, 4)),
            nn.Tanh(),
        ),
        "activation=tanh/relu",
    ),
    "no function at the end": (
        lambda: nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 16), nn.Unflatten(1, (1, 4, 4))),
        "activation=relu,range=-2:2",
    ),
}


def trained(make, seed=0):
    """The network with statistics as training leaves them: of what it meets."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make()
        for module in network.modules():
            if isinstance(module, nn.Linear | nn.ConvTranspose2d | nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
                if module.bias is not None:
                    nn.init.normal_(module.bias, std=0.3)
            elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.momentum = None
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.3)
        d = latent_dim(network)
        with torch.no_grad():
            for _ in range(8):
                run(network, torch.randn(64, d), torch.arange(64) % 3)
    return network.eval().requires_grad_(False)


def latent_dim(network):
    labels = {ConditionalMLP: 5, Functional: 3, OneHot: 3}.get(type(network), 0)
    first = next(m for m in network.modules() if isinstance(m, nn.Linear | nn.ConvTranspose2d))
    return (first.in_features if isinstance(first, nn.Linear) else first.in_channels) - labels


def run(network, z, labels):
    conditional = isinstance(network, ConditionalMLP | Multiplied | Functional | OneHot)
    return network(z, labels) if conditional else network(z)


def expected(network, options, z, labels):
    values = run(network, z, labels)
    if "sigmoid" in options:
        return values
    low, high = (-2, 2) if "-2:2" in options else (-1, 1)
    return ((values - low) / (high - low)).clamp(0, 1)


def saved(folder, network, name="g.pth"):
    torch.save(network.state_dict(), folder / name)
    return f"dcgan:{folder / name}"


@pytest.mark.parametrize("name", ZOO)
def test_it_decodes_the_networks_own_images(tmp_path, name):
    make, options = ZOO[name]
    network = trained(make)
    prior = load_prior(f"{saved(tmp_path, network)},{options}")
    z = torch.randn(6, prior.latent_dim, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(6) % (prior.num_classes or 1)
    own = expected(network, options, z, labels)
    assert own.std() > 0.03
    assert prior.image_shape == own.shape[1:]
    torch.testing.assert_close(prior.decode(z, labels), own, rtol=0, atol=1e-5)
    assert prior.doubts == ()
    assert [finding for finding in check_prior(prior) if finding.problem] == []
    assert load_prior(prior.name).name == prior.name


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("mlp", "activation=leaky-relu:0.2,eps=0.8"),
        ("times", "activation=leaky-relu:0.2,eps=1e-5/0.8/0.8"),
        ("activations before normalizations", "activation=elu"),
    ],
)
def test_activations_and_epsilons_are_those_that_the_files_normalizations_tell(tmp_path, name, told):
    make, options = ZOO[name]
    network = trained(make)
    rest = ",".join(option for option in options.split(",") if option.startswith(("image_size", "join")))
    prior = load_prior(f"{saved(tmp_path, network)}{',' if rest else ''}{rest}")
    assert prior.assumed[0].startswith(
        f"{told}, which the file's own batch normalizations fit best (misfit 0."
    )
    z = torch.randn(6, prior.latent_dim, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(6) % (prior.num_classes or 1)
    torch.testing.assert_close(
        prior.decode(z, labels), expected(network, options, z, labels), rtol=0, atol=1e-5
    )


def test_what_is_assumed_is_said(tmp_path):
    prior = load_prior(saved(tmp_path, trained(lambda: transposed((5, 8, 4), (8, 6, 4, 2, 1), (6, 1, 2, 2)))))
    fits, *others = prior.assumed
    assert fits.startswith(
        "ReLU between the layers (activation=), which the file's own batch normalizations fit"
    )
    assert "leaky-relu:0.2" not in fits
    assert others == [
        "tanh at the end (range=)",
        "1e-05 as the epsilon of batch normalizations (eps=)",
        "the order: main.0 (transposed, stride 1, padding 0), main.1, ReLU(), "
        "main.3 (transposed, stride 2, padding 1), main.4, ReLU(), "
        "main.6 (transposed, stride 2, padding 0), tanh",
        "latents that are standard normal",
    ]
    asked = load_prior(f"{prior.name},activation=relu,range=tanh,eps=1e-5")
    assert asked.assumed == tuple(others[2:])


def test_without_normalizations_relu_is_assumed(tmp_path):
    network = trained(lambda: transposed((5, 8, 4), (8, 3, 4, 2, 1), norm=False))
    assert load_prior(saved(tmp_path, network)).assumed[0].startswith("ReLU between the layers, where")


def test_an_activation_that_the_normalizations_contradict_is_doubtful(tmp_path):
    path = saved(tmp_path, trained(MLP))
    (doubt,) = load_prior(f"{path},activation=tanh,eps=0.8").doubts
    assert re.search(
        r"this is another network.* \(misfit [\d.]+.*\); activation=leaky-relu:0.2,eps=0.8 fits", doubt
    )
    assert load_prior(f"{path},activation=leaky-relu:0.2,eps=0.8").doubts == ()


def test_safetensors_lose_the_order_but_not_the_network(tmp_path):
    network = trained(Upsampling)
    state = network.state_dict()
    save_file({name: state[name] for name in sorted(state)}, tmp_path / "g.safetensors")
    prior = load_prior(f"dcgan:{tmp_path}/g.safetensors,{ZOO['upsampling'][1]}")
    z = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(prior.decode(z), (network(z) + 1) / 2, rtol=0, atol=1e-5)


def test_the_wgan_gp_of_others_is_read_too(tmp_path):
    """`preprocess`, `block1`, ... with kernels of 2, as in caogang's and GGL's checkpoints."""
    from ggl.generators.wgan_gp.prior import Generator

    network = trained(lambda: Generator(6, 2))
    z = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    own = (network(z) + 1) / 2
    torch.testing.assert_close(load_prior(saved(tmp_path, network)).decode(z), own, rtol=0, atol=1e-5)


OPEN = {
    "kernels of 3 and 4": "main.3 has a kernel of 3, which may double the image or not: .* image_size=;",
    "upsampling": r"maps of 3 px are upsampled before the convolutions \(conv_blocks.2, .*image_size=;",
    "functional": "takes 8 values, a label has 3 of them: .* 5 latents .* join=first or join=last;",
}


@pytest.mark.parametrize("name", OPEN)
def test_what_is_open_is_asked_for_with_the_way_on(tmp_path, name):
    path = saved(tmp_path, trained(ZOO[name][0]))
    with pytest.raises(
        InputError, match=OPEN[name] + r".* MODULE:CLASS,weights=FILE.*docs/add-a-prior.md\)$"
    ):
        load_prior(path)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        (
            "kernels of 5, doubling",
            "image_size=16",
            "from 1 px to 16 px in more than one way: say which, strides=1/1/2 or 1/2/",
        ),
        ("kernels of 3 and 4", "image_size=99", "found no strides by which kernels of 4, 3, 4, 4 lead"),
        ("kernels of 3 and 4", "strides=1/2", "expected one for each of 4 kernels, found 2"),
        ("kernels of 3 and 4", "strides=a/2", "expected whole numbers such as 1/2/2, found a/2"),
        ("mlp", "image_size=12", "image_size= and strides= are for convolutions, and it has none"),
        ("mlp", "activation=rely", "no activation is named 'rely'; did you mean 'relu'"),
        ("mlp", "activation=leaky-relu:a", "expected a number after leaky-relu:, found 'a'"),
        ("mlp", "activation=relu:1", "expected no number after relu, found 1"),
        (
            "mlp",
            "activation=relu/relu",
            "expected one value, or one for each of 3 layers but the last, found 2",
        ),
        ("mlp", "eps=a", "eps=: expected numbers, found 'a'"),
        ("mlp", "eps=-1", "eps=: expected numbers above 0, at most 10, found -1"),
        ("mlp", "eps=1/1/1", "expected one value, or one for each of 2 batch normalizations, found 3"),
        ("without normalizations", "eps=0.1", "expected batch normalizations in the file, found none"),
        ("mlp", "range=relu", "range: expected tanh, sigmoid or LOW:HIGH, found 'relu'"),
        ("mlp", "range=1:-1", "range: expected a lower bound, then a higher one"),
        ("mlp", "join=first", "expected a table of labels in the file, or classes=, found neither"),
        ("mlp", "classes=7,join=last", "a label's 7 values do not fit a first layer that takes 7"),
        ("functional", "join=times", "a label's 3 values do not fit a first layer that takes 8"),
        ("functional", "join=last,classes=3", "the file's table of labels, embed, says how many"),
    ],
)
def test_options_that_do_not_fit_are_one_line(tmp_path, name, options, words):
    with pytest.raises((InputError, UnknownNameError), match=words):
        load_prior(f"{saved(tmp_path, trained(ZOO[name][0]))},{options}")


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.l1, self.attn = nn.Linear(4, 64), nn.MultiheadAttention(4, 1)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (
            lambda: nn.Sequential(nn.Linear(4, 64), nn.LayerNorm(64), nn.Linear(64, 16)),
            "1 with weight of shape 64, bias ",
        ),
        (lambda: nn.Sequential(nn.Linear(4, 64), nn.PReLU(), nn.Linear(64, 16)), "1 with weight of shape 1"),
        (
            lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(6, 16)),
            "2.weight of shape 16x6 after 0.weight of 5x4",
        ),
        (
            lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 17)),
            "images of 17 values, not 1 or 3 channels",
        ),
        (lambda: nn.utils.spectral_norm(nn.Linear(4, 64)), "spectral or weight normalization"),
        (
            lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(4, 64)),
            "a parametrization, such as spectral",
        ),
        (Attention, "a transformer"),
        (
            lambda: nn.ModuleDict(
                {"label_a": nn.Embedding(3, 4), "label_b": nn.Embedding(3, 4), "fc": nn.Linear(4, 16)}
            ),
            "2 tables of labels",
        ),
    ],
)
def test_layers_that_are_not_understood_are_named_with_the_way_on(tmp_path, network, words):
    with pytest.raises(
        WeightsError, match=rf"{words}.* write an own prior \(docs/add-a-prior.md\)$"
    ) as refusal:
        load_prior(saved(tmp_path, network()))
    assert "key=" not in str(refusal.value)


class Bare(nn.Module):
    """A linear layer whose maps are upsampled as they are, without a function between."""

    def __init__(self):
        super().__init__()
        self.l1 = nn.Sequential(nn.Linear(6, 8 * 3**2))
        self.conv = nn.Sequential(
            nn.Upsample(scale_factor=2),
            nn.Conv2d(8, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(6, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 1, 3, padding=1),
            nn.Tanh(),
        )

    def forward(self, z):
        return self.conv(self.l1(z).view(len(z), 8, 3, 3))


def test_a_linear_layer_without_a_function_behind_it_is_told_too(tmp_path):
    network = trained(Bare)
    prior = load_prior(f"{saved(tmp_path, network)},image_size=12")
    assert prior.assumed[0].startswith(
        "activation=none/relu/relu, which the file's own batch normalizations fit"
    )
    z = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(prior.decode(z), (network(z) + 1) / 2, rtol=0, atol=1e-5)


def test_upsampling_between_transposed_convolutions_is_refused(tmp_path):
    network = FromPixel(
        nn.ConvTranspose2d(5, 8, 4),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Upsample(scale_factor=2),
        nn.ConvTranspose2d(8, 1, 3, 1, 1),
        nn.Tanh(),
    )
    with pytest.raises(
        WeightsError, match=r"room for 1 more without tensors beside an activation behind main.0"
    ):
        load_prior(f"{saved(tmp_path, network)},image_size=8")


class Block(nn.Module):
    def __init__(self, first="conv1", second="conv2"):
        super().__init__()
        self.add_module(first, nn.Conv2d(4, 4, 3, padding=1))
        self.add_module(second, nn.Conv2d(4, 4, 3, padding=1))


@pytest.mark.parametrize(
    ("blocks", "where"),
    [
        ({"block1": Block(), "block2": Block()}, "block1, which"),
        ({"res1": Block("0", "1")}, "res1.0.weight, which"),
        ({"block": Block("a", "shortcut")}, "block.shortcut.weight, which"),
    ],
)
def test_residual_blocks_are_no_chain_though_they_fit_one(tmp_path, blocks, where):
    network = nn.ModuleDict({"fc": nn.Linear(5, 4 * 16), **blocks, "out": nn.Conv2d(4, 3, 3, padding=1)})
    with pytest.raises(
        WeightsError, match=f"found {where} may be of a residual block: .*docs/add-a-prior.md"
    ):
        load_prior(f"{saved(tmp_path, network)},image_size=8")


def test_a_chain_in_one_container_is_no_residual_block(tmp_path):
    network = nn.ModuleDict(
        {"fc": nn.Linear(5, 4 * 16), "model": Block(), "out": nn.Conv2d(4, 3, 3, padding=1)}
    )
    assert load_prior(f"{saved(tmp_path, network)},image_size=8").image_shape == (3, 8, 8)


def test_many_layers_take_no_time(tmp_path):
    """Each could go either way, and by five steps: nothing is tried one by one."""
    layers = [nn.ConvTranspose2d(4, 4, 3) for _ in range(60)]
    path = saved(tmp_path, nn.Sequential(nn.ConvTranspose2d(4, 4, 4), *layers, nn.ConvTranspose2d(4, 1, 3)))
    with pytest.raises(InputError, match=r"4, 3, 3, .* lead from 1 px to 64 px in more than one way"):
        load_prior(f"{path},image_size=64")
    torch.save({f"{i}.weight": torch.ones(2, 2) for i in range(65)}, tmp_path / "deep.pth")
    with pytest.raises(WeightsError, match="65 layers with weights"):
        load_prior(f"dcgan:{tmp_path}/deep.pth")
