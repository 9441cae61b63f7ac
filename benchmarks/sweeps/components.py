"""What cells name, loaded once: priors, data, victims, defenses."""

from collections.abc import Callable, Hashable
from typing import TypeVar

from torch import nn

from ggl.benchmarks.sweeps.cells import SweepCell
from ggl.commands.build_victim import VictimPlan, build_victim, check_labels
from ggl.commands.weight_options import weights_argument
from ggl.datasets.loading import Dataset, load_dataset
from ggl.defenses import Defense, load_defense
from ggl.generators import Prior, load_prior

__all__ = ["Components"]

T = TypeVar("T")


class Components:
    """What cells name, each loaded when it is first asked for and then kept."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, object] = {}

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what `make` made under a key, which says of which kind it is."""
        if key not in self._kept:
            self._kept[key] = make()
        found: T = self._kept[key]  # type: ignore[assignment]
        return found

    def prior(self, cell: SweepCell) -> Prior:
        """Return a cell's prior."""
        return self.once(("prior", cell.prior), lambda: load_prior(cell.prior))

    def defense(self, cell: SweepCell) -> Defense:
        """Return a cell's defense."""
        return self.once(("defense", cell.defense), lambda: load_defense(cell.defense))

    def data(self, cell: SweepCell) -> Dataset:
        """Return a cell's data in the shape that its prior gives."""
        shape = self.prior(cell).image_shape
        key = ("data", cell.data, shape, cell.fit, cell.split)
        return self.once(
            key, lambda: load_dataset(cell.data, image_shape=shape, fit=cell.fit, split=cell.split)
        )

    def victim(self, cell: SweepCell) -> nn.Module:
        """Return the victim that a cell's clients train, without what its defense adds."""
        shape = self.prior(cell).image_shape
        classes = self.prior(cell).num_classes or self.data(cell).num_classes
        key = ("victim", cell.victim, cell.victim_weights, cell.victim_seed, shape, classes)
        weights = cell.victim_weights
        given = None if weights is None else weights_argument("victim_weights", weights)
        plan = VictimPlan(cell.victim, shape, None, classes, given, cell.victim_seed)

        def build() -> nn.Module:
            victim, known = build_victim(plan)
            check_labels(cell.data, self.data(cell).labels, known)
            return victim

        return self.once(key, build)
