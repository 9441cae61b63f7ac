"""What whole trainings spend: ε by accountants, with and without what clipping by layer adds."""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ggl.benchmarks.reproduce.measurements.base import (
    Job,
    Key,
    Measurement,
    Over,
    Places,
    Row,
    Rows,
)
from ggl.costs.accounting import Accountant, spending
from ggl.defenses import load_defense

__all__ = ["Spendings"]

Count = Annotated[int, Field(ge=1)]


class Spendings(Measurement):
    """ε at δ of trainings under private defenses, as `ggl epsilon` computes it.

    Attributes:
        defense: names of private defenses.
        layers: parameter tensors that are clipped each by itself: 1 leaves √L out, as some authors do.
        accountant: "rdp", "prv".
        rounds: steps of training.
        sample_rate: the probability that an example takes part in a step.
        delta: δ.
    """

    kind: Literal["spendings"]
    defense: list[str]
    layers: list[Count]
    accountant: list[Accountant]
    rounds: Count
    sample_rate: float
    delta: float

    over: ClassVar[Over] = "nothing"
    figures: ClassVar[tuple[str, ...]] = ("epsilon",)

    def axes(self) -> Mapping[str, Sequence[Key]]:
        """Return defenses, layers and accountants."""
        return {"defense": self.defense, "layers": self.layers, "accountant": self.accountant}

    def jobs(self, _places: Places) -> Mapping[str, Job]:
        """Return a job for every accountant."""
        return {accountant: Job(spent, (self, accountant)) for accountant in self.accountant}

    def units(self) -> int:
        """Return 1: there is one figure."""
        return 1


def spent(asked: Spendings, accountant: Accountant) -> Rows:
    """Return ε by one accountant."""
    return [
        Row(
            {"defense": name, "layers": layers, "accountant": accountant},
            0,
            {
                "epsilon": spending(
                    load_defense(name),
                    layers=layers,
                    rounds=asked.rounds,
                    sample_rate=asked.sample_rate,
                    delta=asked.delta,
                    accountant=accountant,
                ).epsilon
            },
        )
        for name in asked.defense
        for layers in asked.layers
    ]
