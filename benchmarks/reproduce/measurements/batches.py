"""What an attack finds of clients that hold several images, beside its controls: by client."""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ggl.audits.audit import audit
from ggl.base.devices import find_device
from ggl.benchmarks.reproduce.measurements.base import (
    Job,
    Key,
    Limit,
    Measurement,
    Over,
    Places,
    Row,
    Rows,
    file_name,
)
from ggl.datasets.loading import load_dataset
from ggl.datasets.picking import pick_private
from ggl.generators import load_prior
from ggl.victims import load_victim

__all__ = ["Batches"]

Count = Annotated[int, Field(ge=1)]

METRICS = ("mse", "psnr", "ssim")

SOURCES = ("attack", "sibling", "noise", "prior", "class mean", "ceiling")


class Batches(Measurement):
    """Audits of clients with a batch each; a figure is the mean over a client's images.

    Attributes:
        prior, victim, data, defense, strategy: as in an audit; the victim is untrained.
        batch_size: images of a client.
        clients: how many.
        budget: objective evaluations of a client's search.
        ceiling_budget: of each image's own inversion.
    """

    kind: Literal["batches"]
    prior: str
    victim: str
    data: str
    defense: list[str]
    strategy: list[str]
    batch_size: list[Count]
    clients: Count
    budget: Count
    ceiling_budget: Count
    distance: str = "cosine"
    latents: str | None = None

    over: ClassVar[Over] = "clients"
    limits: ClassVar[Mapping[str, Limit]] = {
        "clients": "images",
        "budget": "budget",
        "ceiling_budget": "ceiling_budget",
    }
    figures: ClassVar[tuple[str, ...]] = METRICS

    def axes(self) -> Mapping[str, Sequence[Key]]:
        """Return what rows are told apart by; `source` is the attack, a control, or the ceiling."""
        return {
            "batch_size": self.batch_size,
            "defense": self.defense,
            "strategy": self.strategy,
            "source": SOURCES,
        }

    def jobs(self, places: Places) -> Mapping[str, Job]:
        """Return a job for every strategy, defense and batch size."""
        return {
            file_name(size, number, kind): Job(audited, (self, places, size, defense, strategy))
            for size in self.batch_size
            for number, defense in enumerate(self.defense)
            for kind, strategy in enumerate(self.strategy)
        }

    def units(self) -> int:
        """Return how many clients it has."""
        return self.clients


def audited(asked: Batches, places: Places, size: int, defense: str, strategy: str) -> Rows:
    """Return the rows of one audit."""
    device = find_device(places.device)
    prior = load_prior(asked.prior).to(device)
    data = load_dataset(places.fill(asked.data), image_shape=prior.image_shape)
    chosen = pick_private(data.labels, asked.clients * size, 0)
    channels, pixels, _ = prior.image_shape
    classes = prior.num_classes or data.num_classes
    victim = load_victim(asked.victim, in_channels=channels, num_classes=classes, image_size=pixels, seed=0)
    report = audit(
        victim.to(device),
        data.images[chosen],
        data.labels[chosen],
        prior=prior,
        defenses=[defense],
        strategies=[strategy],
        budget=asked.budget,
        ceiling_budget=asked.ceiling_budget,
        decoys=(data.images, data.labels),
        batch_size=size,
        distance=asked.distance,
        latents=asked.latents,
    )
    (cell,) = report.cells
    scores = {"attack": cell.attack, **cell.controls}
    values = {name: {m: score.by_client(m) for m in METRICS} for name, score in scores.items()}
    values["ceiling"] = {m: cell.attack.per_client(report.ceiling.values[m]) for m in METRICS}
    keys: dict[str, Key] = {"batch_size": size, "defense": defense, "strategy": strategy}
    return [
        Row({**keys, "source": source}, client, {m: float(v[client]) for m, v in figures.items()})
        for source, figures in values.items()
        for client in range(asked.clients)
    ]
