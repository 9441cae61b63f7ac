"""How far a victim's gradients agree from one draw of its noise to the next, by layer."""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from ggl.base.errors import InputError
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
from ggl.commands.square_images import load_square
from ggl.datasets.picking import pick_private
from ggl.defenses import load_defense
from ggl.defenses.stochastic import gradient_cosines
from ggl.victims import load_victim

__all__ = ["Cosines"]

Count = Annotated[int, Field(ge=1)]


class Cosines(Measurement):
    """Mean pairwise cosines of an image's gradients under a sampling defense, for every image and layer.

    Attributes:
        victim: names of victims.
        defense: names of defenses that wrap them.
        layer: the layers asked for, by "VICTIM/DEFENSE" and a name of one's own.
        data: images, as for an audit.
        size: pixels a side that images are padded to; None takes them as they are.
        images: how many.
        draws: of the noise, for each image.
        victim_seed: of the victim's weights.
    """

    kind: Literal["cosines"]
    victim: list[str]
    defense: list[str]
    layer: dict[str, dict[str, str]]
    data: str
    size: Count | None = None
    images: Count
    draws: Annotated[int, Field(ge=2)] = 20
    victim_seed: int = 0

    over: ClassVar[Over] = "images"
    figures: ClassVar[tuple[str, ...]] = ("cosine",)
    limits: ClassVar[Mapping[str, Limit]] = {"images": "images"}

    def axes(self) -> Mapping[str, Sequence[Key]]:
        """Return victims, defenses and the layers' names."""
        names = dict.fromkeys(name for layers in self.layer.values() for name in layers)
        return {"victim": self.victim, "defense": self.defense, "layer": list(names)}

    def jobs(self, places: Places) -> Mapping[str, Job]:
        """Return a job for every victim and defense."""
        return {
            file_name(victim, defense): Job(agreeing, (self, places, victim, defense))
            for victim in self.victim
            for defense in self.defense
        }

    def units(self) -> int:
        """Return how many images it has."""
        return self.images


def agreeing(asked: Cosines, places: Places, victim: str, defense: str) -> Rows:
    """Return the cosines of one victim under one defense."""
    data = load_square(places.fill(asked.data), "test", None if asked.size is None else "pad", asked.size)
    channels, size, _ = data.images.shape[1:]
    plain = load_victim(
        victim,
        in_channels=channels,
        num_classes=data.num_classes,
        image_size=size,
        seed=asked.victim_seed,
    )
    model = load_defense(defense).wrap(plain, asked.victim_seed).eval()
    wanted = asked.layer.get(f"{victim}/{defense}", {})
    rows: Rows = []
    for unit, i in enumerate(pick_private(data.labels, asked.images, 0).tolist()):
        one = torch.tensor([i])
        found = gradient_cosines(model, data.images[one], data.labels[one], draws=asked.draws)
        for name, layer in wanted.items():
            if layer not in found:
                known = ", ".join(found)
                raise InputError(f"{victim}, {defense}: expected a layer of {known}, found {layer!r}")
            keys = {"victim": victim, "defense": defense, "layer": name}
            rows.append(Row(keys, unit, {"cosine": found[layer]}))
    return rows
