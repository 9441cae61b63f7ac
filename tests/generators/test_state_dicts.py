"""Generators as public repositories write them, read out of their state dicts: the same images, or a question."""

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
