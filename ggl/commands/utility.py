"""Utility measurements as the command line runs them: inputs checked first, progress shown, one file."""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from torch import nn

from ggl.base.devices import find_device
from ggl.base.errors import InputError
from ggl.base.files import write_atomically
from ggl.base.versions import versions
from ggl.commands.build_victim import check_labels
from ggl.commands.console import LOG_WIDTH, count_bars
from ggl.commands.folders import check_folder
from ggl.commands.square_images import load_square
from ggl.costs.federation import Federation
from ggl.costs.utility import Utility, measure_utility
from ggl.datasets.loading import Dataset
from ggl.measures.statistics import Interval
from ggl.victims import load_victim
from ggl.victims.learning_rates import LEARNING_RATE, LEARNING_RATES

__all__ = ["UtilityPlan", "run_utility"]

RESULT = "utility.json"


HEADINGS = ("defense", "accuracy", "kept", "diverged", "kB sent", "client time", "protecting", "s/round")
LEGEND = """\
accuracy: of test images; kept: its difference to no defense, paired by seed; 95 % t intervals over seeds
kB sent, client time: of one client in one round, the time in units of the undefended client's;
protecting: the time beside computing gradients, in units of that; s/round: seconds, all clients in turn"""


@dataclass(frozen=True)
class UtilityPlan:
    """Everything that `ggl utility` was asked for.

    Attributes:
        test_data: a source of the test images beside `data`; None takes the split "test" of `data`.
        seeds: how many trainings each defense gets; their seeds are `seed`, `seed` + 1, ...
        learning_rate: None for the victim's own, `LEARNING_RATES`.
        partition: with the attributes after it, as in `Federation`.
    """

    victim: str
    data: str
    defenses: tuple[str, ...]
    out: Path
    test_data: str | None = None
    seeds: int = 3
    seed: int = 0
    device: str = "auto"
    clients: int = 10
    partition: str = "iid"
    rounds: int = 300
    batch_size: int = 32
    participation: float = 1.0
    learning_rate: float | None = None
    momentum: float = 0.9
    num_classes: int | None = None
    fit: str | None = None
    image_size: int | None = None

    def federation(self) -> Federation:
        """Return how the clients train."""
        rate = self.learning_rate
        return Federation(
            clients=self.clients,
            partition=self.partition,
            rounds=self.rounds,
            batch_size=self.batch_size,
            participation=self.participation,
            learning_rate=LEARNING_RATES.get(self.victim, LEARNING_RATE) if rate is None else rate,
            momentum=self.momentum,
        )


def run_utility(plan: UtilityPlan) -> None:
    """Measure what the defenses cost, save it as utility.json in the plan's folder, and print a table.

    An audit's results may lie in that folder already; an earlier utility.json is not replaced.

    Raises:
        InputError: anything that does not fit, before the first training.
    """
    console = Console(width=None if sys.stdout.isatty() else LOG_WIDTH, highlight=False)
    check_folder(plan.out)
    if (plan.out / RESULT).exists():
        raise InputError(f"{plan.out}: holds {RESULT} already; choose another folder")
    federation, device = plan.federation(), find_device(plan.device)
    training = load_square(plan.data, "train", plan.fit, plan.image_size)
    test = load_square(plan.test_data or plan.data, "test", plan.fit, plan.image_size)
    classes = plan.num_classes or max(training.num_classes, test.num_classes)
    for data in (training, test):
        check_labels(data.name, data.labels, classes)
    seeds = range(plan.seed, plan.seed + plan.seeds)
    with count_bars(console, "rounds") as stage:
        utilities = measure_utility(
            lambda seed: _victim(plan.victim, training, classes, seed).to(device),
            training,
            test,
            defenses=plan.defenses,
            federation=federation,
            seeds=seeds,
            progress=stage,
        )
    settings: dict[str, object] = {
        "victim": plan.victim,
        "num_classes": classes,
        "data": plan.data,
        "test_data": plan.test_data,
        "fit": plan.fit,
        "image_shape": list(training.images.shape[1:]),
        "training_images": len(training.images),
        "test_images": len(test.images),
        "seeds": list(seeds),
        "device": str(device),
        **asdict(federation),
    }
    plan.out.mkdir(parents=True, exist_ok=True)
    content = json.dumps(_result(utilities, settings), indent=1, allow_nan=False)
    write_atomically(plan.out / RESULT, content.encode())
    _print(utilities, plan, console)


def _victim(name: str, training: Dataset, classes: int, seed: int) -> nn.Module:
    channels, size, _ = training.images.shape[1:]
    return load_victim(name, in_channels=channels, num_classes=classes, image_size=size, seed=seed)


def _result(utilities: Sequence[Utility], settings: Mapping[str, object]) -> dict[str, object]:
    """Return the content of utility.json: the same for the same seeds, `timing` apart."""
    return {
        "settings": dict(settings),
        "versions": versions(),
        "results": [utility.to_dict() for utility in utilities],
        "timing": {utility.defense: utility.timing() for utility in utilities},
    }


def _print(utilities: Sequence[Utility], plan: UtilityPlan, console: Console) -> None:
    title = f"{plan.victim}, {plan.data}, {plan.clients} clients ({plan.partition}), {plan.rounds} rounds"
    table = Table(title=title)
    for heading in HEADINGS:
        table.add_column(heading, no_wrap=heading in ("accuracy", "kept"))
    for utility in utilities:
        table.add_row(*_row(utility))
    console.print(table)
    console.print(LEGEND)
    console.print(f"figures: {plan.out / RESULT}", soft_wrap=True)


def _row(utility: Utility) -> list[str]:
    timing, size = utility.timing(), utility.mean("client_bytes")
    return [
        utility.defense,
        _interval(utility.accuracy(), ""),
        _interval(utility.kept(), "+") if utility.undefended else "",
        f"{sum(t.diverged for t in utility.trainings)} of {len(utility.trainings)}",
        "undefined" if math.isnan(size) else f"{size / 1000:.1f}",
        _two_digits(timing["slowdown"]),
        _two_digits(timing["protect_ratio"]),
        _two_digits(timing["round_seconds"]),
    ]


def _two_digits(figure: float | None) -> str:
    return "undefined" if figure is None else f"{figure:.2f}"


def _interval(interval: Interval, sign: str) -> str:
    """Return percentages; the mean alone where one seed gives no interval."""
    mean = f"{100 * interval.mean:{sign}.1f}"
    if math.isnan(interval.low):
        return mean
    return f"{mean} [{100 * interval.low:{sign}.1f}, {100 * interval.high:{sign}.1f}]"
