"""What each step towards a faster layerwise backend gains: the time with it taken back alone, in one run.

    python benchmarks/speed/steps.py [--victims lenet convnet mlp resnet18] [--rounds 5]

Every step is taken back by a stand-in for the code that it replaced; all variants take turns. A column is
the time that the step saves over the time of the plain pass, so that columns compare with the excess in
`docs/speed.md`; steps overlap, and need not add up. 64 candidates of 32 px, cosine distance.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ggl.base.random import StreamsAside
from ggl.benchmarks.speed.oracle import Variant, scorer, turn
from ggl.gradients import convolutions, layers
from ggl.gradients.convolutions import ConvolutionWeight
from ggl.gradients.factors import Factors
from ggl.gradients.layerwise import Layerwise
from ggl.gradients.readings import Reading

POPULATION, SIZE = 64, 32


def one_by_one(self: ConvolutionWeight) -> Tensor:
    """Build every candidate's gradient by a call of its own."""
    return torch.cat([BUILD(self[k : k + 1]) for k in range(len(self))])


def asked_apart(self: Factors, target: Tensor, keep: Tensor | None = None) -> tuple[Tensor, ...]:
    """Make inner products without the gradient that is built for the norm."""
    dot, square, kept = MOMENTS(self, target, keep)
    return (self.dot(target) if type(self) is ConvolutionWeight else dot), square, kept


def padded(layer: nn.Conv2d, a: Tensor, e: Tensor) -> dict[str, Factors]:
    """Pad a convolution's input in a copy."""
    bare = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,  # type: ignore[arg-type]
        layer.stride,  # type: ignore[arg-type]
        bias=layer.bias is not None,
        device="meta",
    )
    return CONVOLUTION(bare, F.pad(a, layer._reversed_padding_repeated_twice), e)


def read_at_the_end(
    self: Layerwise,
    images: Tensor,
    labels: Tensor,
    readings: Sequence[Reading],
    take: Callable[[Any], None],
) -> None:
    """Keep all output gradients until the backward pass has ended."""
    kept: list[Any] = []
    READ(self, images, labels, readings, kept.append)
    for factors_of in kept:
        take(factors_of)


def with_numpy_state(self: StreamsAside, seed: int) -> None:
    """Read and write the state of NumPy's global stream."""
    np.random.set_state(np.random.get_state())
    BEGIN(self, seed)


def normalized_again(layer: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Normalize the input anew."""
    return F.batch_norm(x, layer.running_mean, layer.running_var, training=False, eps=layer.eps)


BUILD, MOMENTS, READ = ConvolutionWeight.build_as_groups, Factors.moments, Layerwise._read
BEGIN, CONVOLUTION = StreamsAside.begin, layers.FACTORS[nn.Conv2d]

BACK: dict[str, Callable[[], Any]] = {
    "all kept": nullcontext,
    "candidates as groups of one convolution": partial(
        patch.object, ConvolutionWeight, "build_as_groups", one_by_one
    ),
    "patches where channels are few": partial(patch.object, convolutions, "FEW_CHANNELS", 0),
    "inner products off built gradients": partial(patch.object, Factors, "moments", asked_apart),
    "no padded copies": partial(patch.dict, layers.FACTORS, {nn.Conv2d: padded}),
    "batch normalization by its kernel": partial(
        patch.dict, layers.FACTORS, {nn.BatchNorm2d: layers._normalization(normalized_again, False)}
    ),
    "ghost norms by patches": partial(patch.object, ConvolutionWeight, "_patch_products", lambda _: 2**62),
    "layers read while the pass runs": partial(patch.object, Layerwise, "_read", read_at_the_end),
    "NumPy's stream set aside": partial(patch.object, StreamsAside, "begin", with_numpy_state),
}
"""What takes each step back."""


def milliseconds(victim: str, rounds: int) -> dict[str, float]:
    """Return what scoring takes with each step taken back, and the plain pass, medians of turns."""
    plain, call = (scorer(victim, backend, POPULATION, SIZE, Variant()) for backend in ("plain", "layerwise"))
    taken: dict[str, list[float]] = {step: [] for step in ("plain", *BACK)}
    for _ in range(rounds):
        taken["plain"].append(turn(plain))
        for step in BACK:
            with BACK[step]():
                taken[step].append(turn(call))
    return {step: 1000 * statistics.median(times) for step, times in taken.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--victims", nargs="+", default=["lenet", "convnet", "mlp", "resnet18"])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; ms, and saved over the plain pass\n"
    )
    for victim in options.victims:
        taken = milliseconds(victim, options.rounds)
        plain, kept = taken.pop("plain"), taken.pop("all kept")
        print(f"{victim}: plain {plain:.2f} ms, layerwise {kept:.2f} ms ({kept / plain:.2f})")
        for step, time in taken.items():
            print(f"  {step:42s}{time:9.2f} ms {(time - kept) / plain:7.2f}", flush=True)


if __name__ == "__main__":
    main()
