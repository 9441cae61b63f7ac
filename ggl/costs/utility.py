"""What a defense costs: the accuracy of a federated training under it, the client's time, bytes sent."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from torch import nn

from ggl.base.counting import Count
from ggl.base.errors import InputError
from ggl.costs.federated import accuracy, rehearse, train
from ggl.costs.federation import Federation, Training
from ggl.datasets.loading import Dataset
from ggl.defenses import Defense, NoDefense, load_defense
from ggl.measures.statistics import CONFIDENCE, Interval

__all__ = ["Utility", "measure_utility", "t_interval"]


@dataclass(frozen=True)
class Utility:
    """A defense's trainings, one a seed, beside the undefended ones of the same seeds.

    Attributes:
        accuracies: of every training on the test images.
        trainings: what they took.
        undefended: the same of no defense.
    """

    defense: str
    accuracies: Sequence[float]
    trainings: Sequence[Training]
    undefended: "Utility | None" = None

    @property
    def plain(self) -> "Utility":
        """No defense: this one's, or this one."""
        return self.undefended or self

    def accuracy(self) -> Interval:
        """Return the mean accuracy, in [0, 1]."""
        return t_interval(self.accuracies, 0.0, 1.0)

    def kept(self) -> Interval:
        """Return the mean difference to the undefended accuracy of the same seed, in [-1, 1]."""
        pairs = zip(self.accuracies, self.plain.accuracies, strict=True)
        return t_interval([a - b for a, b in pairs], -1.0, 1.0)

    def mean(self, figure: str) -> float:
        """Return the mean over seeds of one of `Training`'s figures, NaN where a training has none."""
        return float(np.mean([getattr(training, figure) for training in self.trainings]))

    def to_dict(self) -> dict[str, object]:
        """Return what depends on the seeds only."""
        return {
            "defense": self.defense,
            "accuracy": self.accuracy().to_dict(),
            "undefended_accuracy": self.plain.accuracy().to_dict(),
            "accuracy_kept": self.kept().to_dict(),
            "accuracies": list(self.accuracies),
            "rounds": [training.rounds for training in self.trainings],
            "diverged": [training.diverged for training in self.trainings],
            "client_bytes": _known(self.mean("client_bytes")),
            "undefended_client_bytes": _known(self.plain.mean("client_bytes")),
        }

    def timing(self) -> dict[str, float | None]:
        """Return what depends on the machine; a client's seconds are of one round.

        `protect_ratio` is what a client spends beside gradients over what it spends on them; `slowdown`
        is its time over the undefended client's. Both are None where nothing was shared.
        """
        seconds, gradient = self.mean("client_seconds"), self.mean("gradient_seconds")
        return {
            "round_seconds": _known(self.mean("round_seconds")),
            "client_seconds": _known(seconds),
            "gradient_seconds": _known(gradient),
            "protect_seconds": _known(seconds - gradient),
            "protect_ratio": _known((seconds - gradient) / gradient if gradient else math.nan),
            "slowdown": _known(seconds / self.plain.mean("client_seconds")),
        }


def t_interval(values: Sequence[float], least: float = -math.inf, most: float = math.inf) -> Interval:
    """Return the mean of `values` (n,) with Student's 95 % interval, cut to what the mean can be.

    Student's rather than the bootstrap's: seeds are few, and a bootstrap interval lies within the values,
    so that for n = 3 of a symmetric distribution it covers the mean with a probability of 75 % at most.
    Nothing but the seeds varies: the error of a finite test set is common to all, and not in the
    interval. One value gives NaN bounds.

    Raises:
        InputError: `values` is empty or holds one that is not finite.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.size == 0 or not np.isfinite(sample).all():
        raise InputError("expected at least one value, all finite, for an interval")
    mean = math.fsum(sample) / sample.size
    if sample.size == 1:
        return Interval(mean, math.nan, math.nan, 1)
    reach = (
        scipy.stats.t.ppf((1 + CONFIDENCE) / 2, sample.size - 1) * sample.std(ddof=1) / math.sqrt(sample.size)
    )
    return Interval(mean, max(least, float(mean - reach)), min(most, float(mean + reach)), sample.size)


def measure_utility(
    victim: Callable[[int], nn.Module],
    training: Dataset,
    test: Dataset,
    *,
    defenses: Sequence[str | Defense] = ("none",),
    federation: Federation,
    seeds: Sequence[int] = (0, 1, 2),
    progress: Count | None = None,
) -> list[Utility]:
    """Train under every defense and every seed; no defense comes first, asked for or not.

    Trainings of one seed begin with the same weights and meet the same clients and mini-batches.

    Args:
        victim: returns the untrained victim of a seed.
        training: what the clients hold.
        test: what accuracies are of.
        defenses: names such as "none", "prune:0.9", "clip:4+noise:0.01".
        federation: how the clients train.
        seeds: one training each.
        progress: called after every round.

    Raises:
        InputError: anything that does not fit, before the first training.
    """
    known = {defense.name: defense for defense in map(load_defense, (NoDefense(), *defenses))}
    _check(training, test, seeds)
    for defense in known.values():
        rehearse(victim(seeds[0]), training.images, training.labels, defense, federation)
    found: dict[str, list[tuple[float, Training]]] = {name: [] for name in known}
    for seed in seeds:
        for name, defense in known.items():
            report = _reporter(progress, f"{name}, seed {seed}", federation.rounds)
            model, done = train(
                victim(seed),
                training.images,
                training.labels,
                defense,
                federation,
                seed=seed,
                progress=report,
            )
            found[name].append((accuracy(model, test.images, test.labels, seed), done))
    return _beside_undefended(found)


def _beside_undefended(found: Mapping[str, Sequence[tuple[float, Training]]]) -> list[Utility]:
    utilities = [
        Utility(name, [a for a, _ in pairs], [training for _, training in pairs])
        for name, pairs in found.items()
    ]
    plain = utilities[0]
    return [plain, *(Utility(u.defense, u.accuracies, u.trainings, plain) for u in utilities[1:])]


def _check(training: Dataset, test: Dataset, seeds: Sequence[int]) -> None:
    if not seeds:
        raise InputError("expected at least one seed, found none")
    shapes = [tuple(data.images.shape[1:]) for data in (training, test)]
    if shapes[0] != shapes[1]:
        raise InputError(f"expected test images of the training images' shape {shapes[0]}, found {shapes[1]}")
    if shapes[0][1] != shapes[0][2]:
        raise InputError(f"{training.name}: expected square images, found {shapes[0][1]}x{shapes[0][2]}")
    if training.images.shape == test.images.shape and training.images.equal(test.images):
        raise InputError(
            f"{training.name}: the test images are the training images; "
            "give data with the splits train and test, or other test data"
        )


def _known(figure: float) -> float | None:
    return None if math.isnan(figure) else figure


def _reporter(progress: Count | None, title: str, rounds: int) -> Callable[[int], None] | None:
    return None if progress is None else lambda done: progress(title, done, rounds)
