"""A folder as the pages' commands take it for granted: a reader's files by the names that pages give."""

import runpy
import shutil
from pathlib import Path

import numpy as np
import torch
from documented import python_of
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

import ggl

MODULES = {
    "mydefense": "add-a-defense.md",
    "mypriors": "add-a-prior.md",
    "mysearch": "add-a-strategy.md",
    "mytracker": "trackers.md",
}
"""A module's name, and the page whose Python it is."""

NETWORK = """
from ggl.victims.lenet import LeNet

class Named(LeNet):
    def forward(self, images):
        return {"logits": super().forward(images)}

def build(in_channels, num_classes, image_size):
    return Named(in_channels, num_classes, image_size)
"""

GENERATOR = """
from torch import nn

class Generator(nn.Sequential):
    def __init__(self, nz=100):
        super().__init__(
            nn.ConvTranspose2d(nz, 8, 8), nn.BatchNorm2d(8), nn.ReLU(),
            nn.ConvTranspose2d(8, 8, 4, 2, 1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.ConvTranspose2d(8, 1, 4, 2, 1), nn.Tanh(),
        )
"""

SPEC = """
name = "NAME"
images = 2
ceiling_budget = 20

[axes]
prior = "fashion-dcgan32"
victim = "lenet"
data = "fashion-mnist-heldout"
defense = ["none", "noise:0.2"]
strategy = ["cma-es", "random"]
budget = 40
"""
"""In place of those that take minutes or hours."""

COLORED = ("utkface-500-128px", "cifar10", "retinamnist", "samples")
"""Images of three channels, which are noise here."""


def trained(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, steps: int) -> nn.Module:
    """Return the model after so many steps of SGD on equal parts of a batch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in zip(images.chunk(steps), labels.chunk(steps), strict=True):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


def write_images(folder: Path) -> None:
    """Write images: a folder a class, and the files that pages name."""
    data = ggl.load_dataset("fashion-mnist-heldout")
    pixels = (data.images[:, 0] * 255).byte().numpy()
    labels = data.labels.numpy()
    for number, (image, label) in enumerate(zip(pixels[:60], labels[:60], strict=True)):
        path = folder / "path/to/images" / str(label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    (folder / "path/to/other").symlink_to(folder / "path/to")
    half = len(pixels) // 2
    sets = {"train": slice(half), "test": slice(half, None)}
    arrays = {f"{name}_images": pixels[part, 2:-2, 2:-2] for name, part in sets.items()}
    arrays |= {f"{name}_labels": labels[part] for name, part in sets.items()}
    np.savez(folder / "fashion-mnist.npz", **arrays)
    (folder / "DIR").symlink_to(folder)
    np.savez(folder / "mine.npz", images=pixels[:80], labels=labels[:80], sex=np.arange(80) // 10 % 2)
    np.savez(folder / "my-client.npz", images=pixels[:4], labels=labels[:4])
    noise = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    for name in COLORED:
        np.savez(folder / f"{name}.npz", images=noise, labels=np.arange(40) % 10)


def write_weights(folder: Path) -> None:
    """Write victims before and after a client's steps, and a generator."""
    data = ggl.load_dataset("fashion-mnist-heldout")
    images, labels = data.images[:4], data.labels[:4]

    def states(seed: int, steps: int) -> list[dict[str, torch.Tensor]]:
        model = ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=32, seed=seed)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        return [before, trained(model, images, labels, steps).state_dict()]

    for seed in (1, 2):
        for name, state in zip(("before", "after"), states(seed, 1), strict=True):
            torch.save(state, folder / f"{name}-{seed}.pt")
    (folder / "capture").mkdir()
    before, after = states(0, 4)
    for place in (folder, folder / "capture"):
        save_file(before, place / "before.safetensors")
        save_file(after, place / "after.safetensors")
    before, after = states(0, 1)
    torch.save({"model": before}, folder / "server.pt")
    torch.save({"model": after}, folder / "client.pt")
    torch.save({"model": before, "train_conf": {"rounds": 1}}, folder / "FL_global_model.pt")
    changes = {name: (after[name] - before[name]).numpy() for name in before}
    np.savez(folder / "difference.npz", **changes)
    np.savez(folder / "gradient.npz", **{name: -change / 0.1 for name, change in changes.items()})
    residual = ggl.load_victim("resnet18", in_channels=1, num_classes=10, image_size=32).state_dict()
    torch.save({"model": {}, "model_ema": residual}, folder / "run.ckpt")
    (folder / "lenet").mkdir()
    save_file(before, folder / "lenet/step-000300.safetensors")
    torch.manual_seed(0)
    generator = runpy.run_path(str(folder / "mynets.py"))["Generator"]()
    # Its batch normalizations record what they meet.
    for _ in range(60):
        generator(torch.randn(64, 100, 1, 1))
    torch.save(generator.state_dict(), folder / "G.pth")
    torch.save({"netG": generator.state_dict()}, folder / "all.pt")


def write_modules(folder: Path) -> None:
    """Write modules of a reader's own; those of the pages are the pages'."""
    (folder / "mypackage").mkdir()
    (folder / "mypackage/__init__.py").touch()
    (folder / "mypackage/models.py").write_text(NETWORK)
    (folder / "mynets.py").write_text(GENERATOR)
    for module, page in MODULES.items():
        (folder / f"{module}.py").write_text(python_of(page))


def write(folder: Path) -> None:
    """Write all of them into an empty folder."""
    write_images(folder)
    write_modules(folder)
    write_weights(folder)
    (folder / "benchmarks/specs").mkdir(parents=True)
    (folder / "benchmarks/results/cpu").mkdir(parents=True)
    (folder / "runs").mkdir()
    for name in ("smoke", "cpu"):
        (folder / f"benchmarks/specs/{name}.toml").write_text(SPEC.replace("NAME", name))
    shutil.copyfile(folder / "benchmarks/specs/smoke.toml", folder / "SPEC")
