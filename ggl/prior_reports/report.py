"""How good a prior is for auditing: what it draws, and how near it comes to images that it is given."""

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ggl.attacks.search import check_budget
from ggl.attacks.stages import Stage
from ggl.attacks.strategy_options import read_options
from ggl.base.errors import InputError
from ggl.base.random import stream
from ggl.base.registry import unknown_name
from ggl.datasets.loading import Dataset
from ggl.datasets.picking import pick_private
from ggl.generators import Prior
from ggl.generators.plausibility import doubts_of
from ggl.optimizers import load_strategy
from ggl.prior_reports.findings import PriorReport
from ggl.prior_reports.inversion import DRAWS, Inverter
from ggl.prior_reports.rate import decoding_rates

__all__ = ["CLASS_RULES", "prior_report", "slerp"]

ROWS, COLUMNS = 8, 8
"""Of the sample grid; a class-conditional prior has a row for each class shown."""

MOST_CLASSES = 10
"""Shown in the sample grid, spread evenly over all of them."""

PATHS, STEPS = 4, 9
"""Interpolations shown, and images of each, both ends among them."""

CLASS_RULES = ("auto", "own", "nearest")
"""Where a class-conditional prior gets its classes from: see `prior_report`."""


def prior_report(
    prior: Prior,
    sets: Mapping[str, Dataset],
    *,
    images: int = 10,
    budget: int = 2000,
    strategy: str = "adam",
    labels: str = "auto",
    seed: int = 0,
    device: torch.device | None = None,
    checkpoints: Path | None = None,
    progress: Stage | None = None,
) -> PriorReport:
    """Draw from a prior and invert images of data sets in and out of its domain.

    Args:
        prior: what is judged.
        sets: data sets of the prior's image shape, by names that say what they are to the prior, such as
            "in-domain"; a name becomes part of a file's name.
        images: how many of each set are inverted, drawn as an audit draws its private ones.
        budget: objective evaluations of each inversion.
        strategy: what searches; an audit's ceiling takes "adam", which needs the prior's gradient.
        labels: of a class-conditional prior, the class in which an image is searched. "own": its label in
            the set, as an audit of that set has it. "nearest": the class whose mean of 8 samples is
            nearest in squared error, at 64 px at most. "auto": own where all labels of the set are
            classes of the prior, else nearest. A set's own labels are classes of the prior in number
            alone: choose "nearest" where they mean something else.
        seed: of every random draw.
        device: where images are decoded; default the CPU.
        checkpoints: a folder that lets a killed report resume with an identical result.
        progress: called after every generation.

    Raises:
        InputError: no set, or a name, shape, label, budget or count that does not fit.
        CheckpointError: `checkpoints` holds those of another report.
    """
    place, started = device or torch.device("cpu"), time.monotonic()
    if labels not in CLASS_RULES:
        raise unknown_name("label rule", labels, list(CLASS_RULES))
    _check_sets(prior, sets)
    rules = {name: _label_rule(prior, data, labels) for name, data in sets.items()}
    chosen = {name: _pick(name, data, images, seed) for name, data in sets.items()}
    options = read_options(strategy)
    own = options.own(budget)
    trial = load_strategy(options.searcher, latent_dim=prior.latent_dim, budget=own, seed=seed)
    check_budget(own, trial.batch_size)
    inverter = Inverter(prior, place, strategy, budget, seed, checkpoints, progress)
    sample_classes, path_classes = _shown_classes(prior, MOST_CLASSES), _shown_classes(prior, PATHS)
    return PriorReport(
        settings=_settings(inverter, images, labels),
        samples=_samples(inverter, sample_classes, seed),
        sample_classes=sample_classes,
        interpolation=_interpolation(inverter, path_classes, seed),
        path_classes=path_classes,
        sets={name: inverter.inversion(name, sets[name], chosen[name], rules[name]) for name in sets},
        rates=decoding_rates(inverter.prior, place),
        seconds=time.monotonic() - started,
    )


def slerp(first: Float[Tensor, "n d"], last: Float[Tensor, "n d"], t: float) -> Float[Tensor, "n d"]:
    """Return the point a share `t` of the way along the great circle (Shoemake 1985, section 3.3).

    The straight line where two latents point the same way or opposite ones.
    """
    a, b = first.double(), last.double()
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=1)[:, None].clamp(-1, 1)
    angle, sine = cosine.arccos(), (1 - cosine.square()).sqrt()
    curved = (((1 - t) * angle).sin() * a + (t * angle).sin() * b) / sine.clamp_min(1e-12)
    return torch.where(sine > 1e-6, curved, (1 - t) * a + t * b).to(first)


def _samples(
    inverter: Inverter, classes: Sequence[int] | None, seed: int
) -> Float[Tensor, "rows columns c h w"]:
    """Return random samples, a row for each class."""
    rows = ROWS if classes is None else len(classes)
    z = inverter.prior.sample(rows * COLUMNS, stream(seed, "prior samples"))
    images = inverter.decode(z, _repeated(classes, COLUMNS))
    return images.view(rows, COLUMNS, *images.shape[1:])


def _interpolation(
    inverter: Inverter, classes: Sequence[int] | None, seed: int
) -> Float[Tensor, "paths steps c h w"]:
    """Return spherical interpolations between pairs of samples of one class."""
    paths = PATHS if classes is None else len(classes)
    first, last = inverter.prior.sample(2 * paths, stream(seed, "prior interpolation")).chunk(2)
    z = torch.stack([slerp(first, last, float(t)) for t in np.linspace(0, 1, STEPS)], dim=1)
    images = inverter.decode(z.flatten(0, 1), _repeated(classes, STEPS))
    return images.view(paths, STEPS, *images.shape[1:])


def _repeated(classes: Sequence[int] | None, times: int) -> Tensor | None:
    return None if classes is None else torch.tensor(classes).repeat_interleave(times)


def _check_sets(prior: Prior, sets: Mapping[str, Dataset]) -> None:
    if not sets:
        raise InputError("expected at least one data set to invert, found none")
    shape = tuple(prior.image_shape)
    for name, data in sets.items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise InputError(
                f"data set {name!r}: expected a name of letters, digits, '.', '_' and '-', for a file's name"
            )
        if tuple(data.images.shape[1:]) != shape:
            raise InputError(
                f"data set {name!r}: expected images of the shape that prior {prior.name} gives, {shape}; "
                f"found {tuple(data.images.shape[1:])}; load it with image_shape= and fit="
            )
    if len({name.lower() for name in sets}) < len(sets):
        raise InputError("expected names of data sets that differ by more than upper and lower case")


def _label_rule(prior: Prior, data: Dataset, asked: str) -> str | None:
    """Return how the images of a set get the prior's classes."""
    if prior.num_classes is None:
        return None
    if asked == "auto":
        return "own" if int(data.labels.max()) < prior.num_classes else "nearest"
    if asked == "own":
        prior.check_labels(data.labels)
    return asked


def _pick(name: str, data: Dataset, images: int, seed: int) -> Tensor:
    if not 1 <= images <= len(data.images):
        raise InputError(
            f"data set {name!r}: expected 1 to {len(data.images)} images to invert, as it has; found {images}"
        )
    return pick_private(data.labels, images, seed)


def _shown_classes(prior: Prior, most: int) -> list[int] | None:
    """Return up to `most` classes, spread evenly."""
    if prior.num_classes is None:
        return None
    count = min(prior.num_classes, most)
    return [int(label) for label in np.linspace(0, prior.num_classes - 1, count).round()]


def _settings(work: Inverter, images: int, labels: str) -> dict[str, object]:
    prior = work.prior
    return {
        "prior": prior.name,
        "prior_assumed": list(prior.assumed),
        "prior_doubts": doubts_of(prior, work.seed),
        "licence": prior.licence,
        "latent_dim": prior.latent_dim,
        "image_shape": list(prior.image_shape),
        "num_classes": prior.num_classes,
        "parameters": sum(p.numel() for p in prior.parameters()),
        "images": images,
        "budget": work.budget,
        "strategy": work.strategy,
        "labels": labels,
        "seed": work.seed,
        "draws": DRAWS,
        "device": str(work.device),
    }
