"""What folding constants into weights saves: priors against the networks that they were made from.

    python benchmarks/speed/folding.py [--biggan 128 256] [--repeats 5]

Random weights of the published shapes; needs the extra `biggan`. Both decode the same latents, taking
turns, in one process of one thread; a ratio is the median over repeats of plain time / folded time.
"""

import argparse
import importlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from ggl.base.weights import load_tensors
from ggl.benchmarks.tools.random_weights import write_biggan
from ggl.generators import Prior, load_prior
from ggl.generators.biggan.configuration import PUBLISHED
from ggl.generators.bundled.recipes import RECIPES

Decode = Callable[[], Tensor]


def biggan(resolution: int, folder: Path, batch: int) -> tuple[Decode, Decode]:
    """Return BigGAN-deep as the library evaluates it, and as the prior does."""
    write_biggan(folder, resolution)
    library: Any = importlib.import_module("pytorch_pretrained_biggan.model")
    plain = library.BigGAN(library.BigGANConfig(**asdict(PUBLISHED[resolution]))).eval()
    plain.load_state_dict(load_tensors(folder / "pytorch_model.bin"))
    prior = load_prior(f"biggan-deep:{resolution},weights={folder}")
    z, labels = _latents(prior, batch)
    one_hot = nn.functional.one_hot(labels, 1000).float()
    return lambda: (plain(z, one_hot, 1.0) + 1) / 2, lambda: prior.decode(z, labels)


def bundled(name: str, batch: int) -> tuple[Decode, Decode]:
    """Return a bundled prior's network with its normalization, and the prior."""
    prior = load_prior(name)
    plain = RECIPES[name].generator().eval().to(memory_format=torch.channels_last)
    z, labels = _latents(prior, batch)
    return lambda: (plain(z, labels) + 1) / 2, lambda: prior.decode(z, labels)


def _latents(prior: Prior, batch: int) -> tuple[Tensor, Tensor]:
    z = prior.sample(batch, torch.Generator().manual_seed(0))
    return z, torch.arange(batch) % (prior.num_classes or 1)


@torch.no_grad()
def ratio(plain: Decode, folded: Decode, repeats: int) -> float:
    """Return the median of plain time / folded time."""
    plain(), folded()
    return median(_seconds(plain) / _seconds(folded) for _ in range(repeats))


def _seconds(decode: Decode) -> float:
    started = time.process_time()
    decode()
    return time.process_time() - started


def main() -> None:
    """Read the command line and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--biggan", nargs="*", type=int, default=[128, 256], choices=list(PUBLISHED))
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| prior | batch | plain / folded time |\n|---|---|---|")
    for name in RECIPES:
        print(f"| {name} | 16 | {ratio(*bundled(name, 16), options.repeats):.2f} |", flush=True)
    for resolution in options.biggan:
        with tempfile.TemporaryDirectory() as folder:
            found = ratio(*biggan(resolution, Path(folder), 2), options.repeats)
        print(f"| biggan-deep:{resolution} | 2 | {found:.2f} |", flush=True)


if __name__ == "__main__":
    main()
