"""Small victims that hold every layer kind and every trap that the backends must survive."""

import torch
from torch import nn
from torch.nn import functional as F


def seeded(build, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def convolution(**options):
    """A two-convolution victim whose second convolution takes the options."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(4, 8, options.pop("kernel_size", 3), **options),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 5),
    )


def batch_norm(train: bool) -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 6, 3, stride=2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(5),
    )
    model(torch.rand(4, 3, 8, 8))
    nn.init.uniform_(model[1].weight, 0.5, 1.5)
    nn.init.normal_(model[1].bias)
    return model.train(train)


class InPlaceResidual(nn.Module):
    """torchvision's traps: an in-place ReLU and an in-place addition on a normalization's output."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.conv = nn.Conv2d(6, 6, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 5)

    def forward(self, x):
        x = F.relu_(self.norm(self.stem(x)))
        out = self.norm2(self.conv(x))
        out += x
        return self.fc(F.relu_(out).mean((2, 3)))


class Tokens(nn.Module):
    """Layer norm over tokens and an embedding of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 12, 4, stride=4)
        self.position = nn.Embedding(4, 12)
        self.norm = nn.LayerNorm(12)
        self.mix = nn.Linear(12, 12)
        self.unused = nn.Linear(3, 3)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.position(torch.arange(4, device=x.device).expand(len(x), -1))
        return self.head(F.gelu(self.mix(self.norm(x))).mean(1))


class UsedTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3 * 8 * 8, 8)
        self.again = nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = torch.tanh(self.first(x.flatten(1)))
        return self.head(torch.tanh(self.again(torch.tanh(self.again(x)))))


class Tied(UsedTwice):
    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(8, 8)
        self.other.weight = self.again.weight

    def forward(self, x):
        return self.head(torch.tanh(self.other(torch.tanh(self.again(self.first(x.flatten(1)))))))


class OwnParameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(5))
        self.head = nn.Linear(3 * 8 * 8, 5)

    def forward(self, x):
        return self.head(x.flatten(1)) * self.scale


class MixesImages(nn.Module):
    """Adds the population's mean: right alone, wrong in one batch."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3 * 8 * 8, 5)

    def forward(self, x):
        x = x.flatten(1)
        return self.head(x + 5 * x.mean(0, keepdim=True))


CONVOLUTIONS = {
    "plain": {},
    "strided": {"stride": 2},
    "strided unevenly": {"stride": (2, 3), "kernel_size": (3, 2)},
    "dilated": {"dilation": 2},
    "grouped": {"groups": 2},
    "depthwise": {"groups": 4},
    "same": {"padding": "same", "kernel_size": 4},
    "one by one": {"kernel_size": 1, "bias": False},
    "all of it": {"stride": 2, "dilation": (1, 2), "groups": 2, "padding": (2, 1), "padding_mode": "reflect"},
    **{
        f"{mode} padding": {"padding": (1, 2), "padding_mode": mode}
        for mode in ("zeros", "reflect", "replicate", "circular")
    },
}
"""Options of the second convolution of `convolution`, by what they test."""

MODELS = {
    **{f"convolution {name}": (lambda o=o: convolution(**o)) for name, o in CONVOLUTIONS.items()},
    "batch norm in eval mode": lambda: batch_norm(train=False),
    "in-place residual": lambda: InPlaceResidual().eval(),
    "group norm": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.GroupNorm(2, 6), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(216, 5)
    ),
    "tokens": Tokens,
}
"""Builders of victims for 3 × 8 × 8 images and 5 classes that every backend takes."""
