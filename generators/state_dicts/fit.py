"""Activations and ε that a file's own normalizations tell, by what they recorded in training."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ggl.generators.plausibility import FITS, enough_samples, misfit_text, norm_misfits
from ggl.generators.state_dicts.reading import EPSILON, Asked, Reading, read_generator

__all__ = ["fitted"]

TRIED = ("relu", "leaky-relu:0.2", "leaky-relu:0.01", "elu", "tanh")
"""Activations of generators, none between others: running statistics lag behind training."""

TRIED_EPSILON = "0.8"
"""Where a momentum was meant, as in `BatchNorm2d(64, 0.8)` of PyTorch-GAN and what was made of it."""

CLOSE = 0.15
"""Misfit up to which nothing but the activation is tried."""

SAME = 1e-6
"""Of misfits: less is rounding."""

BETTER = 0.8
"""Of the misfit as asked or assumed, below which another reading is the better one."""


@dataclass(frozen=True)
class _Trial:
    asked: Asked
    reading: Reading
    misfits: tuple[float, ...]

    @property
    def misfit(self) -> float:
        return sum(self.misfits) / len(self.misfits)


def fitted(path: str | Path, state: Mapping[str, Tensor], asked: Asked, *, in_order: bool) -> Reading:
    """Return the generator of a state dict; activation and ε, where nobody said them, as its norms tell.

    Where they tell nothing, ReLU and 1e-5 stay assumed. Where nothing fits, or something else does than
    what was asked for, the reading says so among its doubts.

    Raises:
        WeightsError: as `read_generator`.
        InputError: as `read_generator`.
    """

    def tried(others: Iterator[Asked]) -> Iterator[_Trial]:
        for other in others:
            reading = read_generator(path, state, other, in_order=in_order)
            misfits = _misfits(reading)
            if misfits:
                yield _Trial(other, reading, misfits)

    own = next(tried(iter([asked])), None)
    if own is None:
        return read_generator(path, state, asked, in_order=in_order)
    trials = [own]
    if asked.activation is None or own.misfit > FITS:
        trials += tried(replace(asked, activation=name) for name in TRIED[1:])
    if asked.eps is None and min(trial.misfit for trial in trials) > CLOSE:
        later = ["1e-5", *[TRIED_EPSILON] * (len(own.reading.plan.epsilons) - 1)]
        others = dict.fromkeys((TRIED_EPSILON, "/".join(later)))
        trials += tried(replace(trial.asked, eps=eps) for trial in tuple(trials) for eps in others)
    each = "/" in (asked.activation or "")
    if min(t.misfit for t in trials) > CLOSE and own.reading.plan.chain[0].way == "linear" and not each:
        trials += tried(replace(trial.asked, activation=_bare(trial)) for trial in tuple(trials))
    best, *alike = _best(trials)
    better = best.misfit <= FITS and best is not own
    told = [("activation", best.asked.activation), ("eps", best.asked.eps)]
    text = ",".join(f"{option}={value}" for option, value in told if value is not None)
    if better and asked.activation in (None, best.asked.activation):
        phrase = f"{text}, which the file's own batch normalizations fit best (misfit {best.misfit:.2g}, "
        phrase += f"with ReLU and {EPSILON:g} {own.misfit:.2g})"
        return replace(best.reading, assumed=(phrase + _others(best, alike), *best.reading.assumed))
    if own.misfit <= FITS and asked.activation is None:
        phrase = "ReLU between the layers (activation=), which the file's own batch normalizations fit"
        return replace(own.reading, assumed=(phrase + _others(own, alike), *own.reading.assumed[1:]))
    if own.misfit <= FITS:
        return own.reading
    doubt = misfit_text(own.misfit) + (f"; {text} fits them" if better else "")
    return replace(own.reading, doubts=(doubt,))


def _others(best: _Trial, alike: Sequence[_Trial]) -> str:
    """Return a phrase on the activations that fit as well."""
    names = dict.fromkeys(trial.asked.activation or "relu" for trial in alike)
    names.pop(best.asked.activation or "relu", None)
    return f", {' and '.join(names)} as well" if names else ""


def _best(trials: Sequence[_Trial]) -> list[_Trial]:
    """Return the trials of the least misfit, with those that are not clearly worse, the usual one first.

    Compared are the normalizations for which it makes a difference.
    """
    columns = zip(*(trial.misfits for trial in trials), strict=True)
    differ = [k for k, column in enumerate(columns) if max(column) - min(column) > SAME]
    means = [sum(trial.misfits[k] for k in differ) for trial in trials]
    return [trial for trial, mean in zip(trials, means, strict=True) if BETTER * mean <= min(means)]


def _bare(trial: _Trial) -> str:
    """Return a trial's activations without the first: a linear layer's maps may meet the next as they are."""
    names = [
        trial.asked.activation or "relu" if there else "none" for there in trial.reading.plan.activations
    ]
    return "/".join(["none", *names[1:]])


def _misfits(reading: Reading) -> tuple[float, ...]:
    """Return the misfit of each of a reading's normalizations on its own latents."""
    if not any(reading.plan.activations):
        return ()
    network = reading.network().float()
    count = enough_samples(reading.plan.image_shape)
    z = torch.randn(count, reading.labels.latent_dim, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count) % (reading.labels.num_classes or 1)
    return tuple(norm_misfits(network, lambda: network(reading.labels.joined(z, labels))))
