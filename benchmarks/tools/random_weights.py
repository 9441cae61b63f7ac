"""Weight files of the published shapes with random values: to measure speed, and to try a set-up.

    python benchmarks/tools/random_weights.py biggan-deep-256 stylegan2-ffhq256 --out DIR

Each file or folder loads as its published counterpart would; the pictures are noise. BigGAN needs the
extra `biggan`. Channels of StyleGAN2: min(base / resolution, 512), base and depth of the mapping as its
configurations have them (arXiv 2006.06676, table 5).
"""

import argparse
import importlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ggl.base.weights import save_tensors
from ggl.generators.biggan.configuration import PUBLISHED
from ggl.generators.wgan_gp.prior import Generator
from ggl.generators.wgan_gp.train import LATENT_DIM, WIDTH

STYLEGAN2 = {
    "stylegan2-cifar10": {"size": 32, "base": 32_768, "depth": 2, "classes": 10},
    "stylegan2-ffhq256": {"size": 256, "base": 16_384, "depth": 8},
    "stylegan2-ffhq": {"size": 1024, "base": 32_768, "depth": 8},
}
WGAN_GP = "wgan-gp"
BIGGAN = {f"biggan-deep-{resolution}": resolution for resolution in PUBLISHED}
DIM = 512
"""Of StyleGAN2's latents and styles, and its most channels."""

POWER_ITERATIONS = 10
"""Of BigGAN's spectral norms, so that the folded weights have the size of real ones."""


def write_biggan(folder: Path, resolution: int) -> None:
    """Write `pytorch_model.bin` and `config.json` into `folder`."""
    library: Any = importlib.import_module("pytorch_pretrained_biggan.model")
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    network = library.BigGAN(library.BigGANConfig(**asdict(PUBLISHED[resolution]))).requires_grad_(False)
    for module in network.modules():
        for normalize in module._forward_pre_hooks.values():
            for _ in range(POWER_ITERATIONS):
                normalize(module, ())
    torch.save(network.state_dict(), folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(asdict(PUBLISHED[resolution])))


def write_wgan_gp(path: Path) -> None:
    """Write a generator of the width that `ggl.generators.wgan_gp.train` trains."""
    torch.manual_seed(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(path, Generator(LATENT_DIM, WIDTH).state_dict())


def write_stylegan2(path: Path, size: int, base: int, depth: int, classes: int | None = None) -> None:
    """Write the tensors of a generator under the official names."""
    torch.manual_seed(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(path, dict(_stylegan2(size, base, depth, classes)))


def _stylegan2(size: int, base: int, depth: int, classes: int | None) -> Iterator[tuple[str, Tensor]]:
    widths = {side: min(base // side, DIM) for side in (2**k for k in range(2, size.bit_length()))}
    if classes is not None:
        yield from _linear("mapping.embed", classes, DIM)
    for k in range(depth):
        yield from _linear(
            f"mapping.fc{k}", DIM * (2 if classes is not None and k == 0 else 1), DIM, scale=100.0
        )
    yield "mapping.w_avg", torch.zeros(DIM)
    yield "synthesis.b4.const", torch.randn(widths[4], 4, 4)
    taps = torch.tensor([1.0, 3, 3, 1])
    for side, width in widths.items():
        block = f"synthesis.b{side}"
        yield f"{block}.resample_filter", torch.outer(taps, taps) / 64
        if side > 4:
            yield from _convolution(f"{block}.conv0", widths[side // 2], width, 3, side)
        yield from _convolution(f"{block}.conv1", width, width, 3, side)
        yield from _convolution(f"{block}.torgb", width, 3, 1)


def _linear(name: str, inputs: int, outputs: int, scale: float = 1.0) -> Iterator[tuple[str, Tensor]]:
    yield f"{name}.weight", scale * torch.randn(outputs, inputs)
    yield f"{name}.bias", torch.zeros(outputs)


def _convolution(
    name: str, inputs: int, outputs: int, kernel: int, noise_side: int | None = None
) -> Iterator[tuple[str, Tensor]]:
    yield f"{name}.weight", torch.randn(outputs, inputs, kernel, kernel)
    yield f"{name}.bias", torch.zeros(outputs)
    yield f"{name}.affine.weight", torch.randn(inputs, DIM)
    yield f"{name}.affine.bias", torch.ones(inputs)
    if noise_side is not None:
        yield f"{name}.noise_const", torch.randn(noise_side, noise_side)
        yield f"{name}.noise_strength", torch.tensor(0.1)


def main() -> None:
    """Read the command line and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", choices=[*BIGGAN, *STYLEGAN2, WGAN_GP])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    for name in options.names:
        if name in BIGGAN:
            write_biggan(options.out / name, BIGGAN[name])
            print(f"biggan-deep:{BIGGAN[name]},weights={options.out / name}")
        elif name == WGAN_GP:
            write_wgan_gp(options.out / f"{name}.safetensors")
            print(f"wgan-gp:{options.out / name}.safetensors")
        else:
            path = options.out / f"{name}.safetensors"
            write_stylegan2(path, **STYLEGAN2[name])
            print(f"stylegan2:{path}")


if __name__ == "__main__":
    main()
