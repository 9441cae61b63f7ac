"""What residuals cost: their sketches in the oracle, and the search that is told them.

    python benchmarks/speed/residuals.py [--victims resnet18 lenet ...] [--repeats 7] [--threads 1]

Per candidate, in milliseconds: decoded and scored by the embedded prior (population 64, batch 1); the same
with a sketch of its gradient; `gauss-newton`'s own work, over twenty generations after its differences, of
one search. All three take turns, so that a noisy machine disturbs them alike; medians of the repeats, the
overheads as shares of a plain scored candidate.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from ggl.attacks.objectives import GradientMatch
from ggl.benchmarks.studies.tables import markdown_table
from ggl.datasets.loading import load_dataset
from ggl.defenses import load_defense
from ggl.generators import Prior, load_prior
from ggl.gradients import GradientOracle
from ggl.optimizers import load_strategy
from ggl.optimizers.residuals import Residuals
from ggl.victims import load_victim

PRIOR, POPULATION, GENERATIONS = "fashion-dcgan32", 64, 20
VICTIMS = ("resnet18", "convnet", "lenet", "mlp")
HEADINGS = (
    "victim",
    "numbers",
    "plain, ms",
    "sketched, ms",
    "search, ms",
    "sketch",
    "the search",
    "together",
)


class Setting:
    """A prior, a victim and one observed gradient."""

    def __init__(self, victim: str) -> None:
        data = load_dataset("fashion-mnist-heldout")
        self.labels = data.labels[:1]
        oracle = GradientOracle(
            load_victim(victim, in_channels=1, num_classes=10, image_size=32, seed=0), backend="layerwise"
        )
        view = load_defense("none").view(oracle.observe(data.images[:1], self.labels), "adaptive")
        self.objective = GradientMatch(oracle, [view], "cosine")
        self.prior: Prior = load_prior(PRIOR)
        random = torch.Generator().manual_seed(0)
        self.z = torch.randn(POPULATION, self.prior.latent_dim, generator=random)

    def decoded(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return images (n, 1, c, h, w) and their labels."""
        labels = self.labels.expand(len(z))
        return self.prior.decode(z.float(), labels)[:, None], labels[:, None]

    def plain(self) -> None:
        """Decode and score the population."""
        self.objective(*self.decoded(self.z), [0], [POPULATION])

    def sketched(self) -> None:
        """Decode and score it, and sketch every gradient."""
        self.objective.measure(*self.decoded(self.z), [0], [POPULATION])

    def search_seconds(self) -> float:
        """Return the seconds a candidate that one search takes for itself after its differences."""
        strategy = load_strategy("gauss-newton", latent_dim=self.prior.latent_dim, budget=10_000, seed=0)
        seconds, candidates = 0.0, 0
        for generation in range(2 + GENERATIONS):
            started = time.perf_counter()
            z = strategy.ask()
            seconds += time.perf_counter() - started if generation > 1 else 0
            losses, values = self.objective.measure(*self.decoded(z), [0], [len(z)])
            told = Residuals(values, self.objective.targets[0], self.objective.unit, self.objective.groups)
            started = time.perf_counter()
            strategy.tell(z, losses, None, told)
            if generation > 1:
                seconds += time.perf_counter() - started
                candidates += len(z)
        return seconds / candidates


def seconds_of(call: Callable[[], None]) -> float:
    """Return the seconds a candidate of a call for the population."""
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) / POPULATION


def row(victim: str, repeats: int) -> tuple[str, ...]:
    """Return a victim's line of the table."""
    setting = Setting(victim)
    setting.plain()
    setting.sketched()
    times = [
        (seconds_of(setting.plain), seconds_of(setting.sketched), setting.search_seconds())
        for _ in range(repeats)
    ]
    plain, sketched, search = (1000 * torch.tensor(times, dtype=torch.float64)).median(0).values.tolist()
    shares = ((sketched - plain) / plain, search / plain, (sketched - plain + search) / plain)
    numbers = f"{setting.objective.targets.shape[1]:,}"
    milliseconds = (f"{t:.2f}" for t in (plain, sketched, search))
    return victim, numbers, *milliseconds, *(f"{share:.0%}" for share in shares)


@torch.no_grad()
def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--victims", nargs="+", default=list(VICTIMS))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(markdown_table(HEADINGS, [row(victim, options.repeats) for victim in options.victims]))


if __name__ == "__main__":
    main()
