"""What stands between the layers of a plain generator, as far as the numbers in their names say.

A `Sequential` numbers all its modules, also those without tensors: "main.1" and "main.3" have one between
them. Where no number of a container is left out, what stands between is called in `forward`, unseen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ggl.generators.state_dicts.chain import Link
from ggl.generators.state_dicts.layers import Layer, Layers

__all__ = ["Place", "find_places"]


@dataclass(frozen=True)
class Place:
    """What stands between a layer with weights and the next.

    Attributes:
        before_norm: whether an activation stands before the normalization instead of after it.
        room: modules without tensors behind the normalization, shaping apart; None where it is not known.
        upsampling_shown: whether one of these must be an upsampling, where the next is a plain convolution.
    """

    before_norm: bool
    room: int | None
    upsampling_shown: bool

    def activated(self, *, doubled: bool) -> bool:
        """Say whether there is an activation, where maps are upsampled here or are not."""
        return self.before_norm or self.room is None or self.room > int(doubled)


def find_places(layers: Layers, chain: Sequence[Link]) -> list[Place]:
    """Return what stands behind each layer of the chain but the last."""
    gaps = _gaps(layers.ordered)
    return [_place(link, after, gaps) for link, after in pairwise(chain)]


def _place(link: Link, after: Link, gaps: dict[tuple[str, str], int | None]) -> Place:
    end = link.layer if link.norm is None else link.norm
    room = gaps[end.name, after.layer.name]
    inner = None if link.norm is None else gaps[link.layer.name, link.norm.name]
    if after.side is not None and link.norm is not None and link.norm.features != link.outputs:
        inner = None if inner is None else max(0, inner - 1)
    elif after.side is not None and room is not None:
        room = max(0, room - 1)
    before_norm = bool(inner)
    led = _place_in(after.layer.name)[1] > 0 and _place_in(end.name)[0] != _place_in(after.layer.name)[0]
    return Place(
        before_norm=before_norm,
        room=room,
        upsampling_shown=room >= 2 if room is not None else led,
    )


def _gaps(ordered: Sequence[Layer]) -> dict[tuple[str, str], int | None]:
    """Return how many modules without tensors lie between neighbors, None where that is not known."""
    counted: dict[tuple[str, str], int | None] = {}
    numbered: dict[str, list[int]] = {}
    for before, after in pairwise(ordered):
        (container, first), (other, second) = _place_in(before.name), _place_in(after.name)
        known = container == other and 0 <= first < second
        counted[before.name, after.name] = second - first - 1 if known else None
        if known:
            numbered.setdefault(container, []).append(second - first - 1)
    return {
        names: count if count is not None and any(numbered[_place_in(names[0])[0]]) else None
        for names, count in counted.items()
    }


def _place_in(name: str) -> tuple[str, int]:
    """Return a module's container and its number in it, -1 where it has a name."""
    container, _, last = name.rpartition(".")
    return (container, int(last)) if last.isdigit() else (container, -1)
