"""What points came to, and all inner products of it: least squares need no more of values than these."""

import itertools
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Record", "rows_of"]

HUGE = 1e15
"""Values are held within, in lengths of the target: their products stay finite in float32."""

LARGEST_PRODUCTS = 2**24
"""Inner products that are held (128 MiB): where points are many, groups of coordinates are joined."""


class Record:
    """Points, the values of their parts less an equal share of the target, and the products of all.

    Lengths are the target's. Row 0 of the products is the target, row 1 + i · parts + p is part p of point
    i: so a vector of coefficients is a value, and its products need no coordinate.

    Attributes:
        z: (n, parts, d).
        losses: (n,) that were told.
        products: (groups, 1 + n · parts, 1 + n · parts).

    Args:
        target: (m,).
        sizes: coordinates of each group, in their order.
        parts: what has latents and values of its own: images of a batch.
        latent_dim: d of a part.
        room: points held at once, at most.
    """

    def __init__(self, target: Tensor, sizes: Sequence[int], parts: int, latent_dim: int, room: int) -> None:
        self.parts = parts
        self.sizes = _joined(sizes, max(1, LARGEST_PRODUCTS // (1 + room * parts) ** 2))
        self._length = target.norm().clamp_min(1e-30)
        self._target = (target / self._length).to(torch.float32)
        self._values = torch.empty(room, parts, len(target))
        self._places = torch.empty(0, dtype=torch.int64)
        self.z = torch.empty(0, parts, latent_dim, dtype=torch.float64)
        self.losses = torch.empty(0, dtype=torch.float64)
        self.products = torch.stack([(t @ t).view(1, 1) for t in self._split(self._target)]).double()

    def __len__(self) -> int:
        return len(self.z)

    def add(self, z: Tensor, values: Tensor, losses: Tensor) -> None:
        """Take points (n, parts, d), what they came to (n, parts, m), and their losses (n,)."""
        scaled = (values / self._length).clamp(-HUGE, HUGE) - self._target / self.parts
        places = self._free()[: len(z)]
        self._values[places] = scaled.to(torch.float32)
        self._places = torch.cat([self._places, places])
        self.z, self.losses = torch.cat([self.z, z]), torch.cat([self.losses, losses])
        old, every = self.products.shape[1], 1 + len(self) * self.parts
        products = torch.zeros(len(self.sizes), every, every, dtype=torch.float64)
        products[:, :old, :old] = self.products
        columns = (self._places[:, None] * self.parts + torch.arange(self.parts)).flatten()
        parts = zip(
            *(self._split(x) for x in (self._values[places].flatten(0, 1), self._target)),
            self._split(self._values[: self._used].flatten(0, 1)),
            strict=True,
        )
        for group, (new, target, held) in enumerate(parts):
            rows = torch.cat([(new @ target)[:, None], (new @ held.T)[:, columns]], dim=1).double()
            products[group, old:], products[group, :, old:] = rows, rows.T
        self.products = products

    def at(self, center: Tensor) -> Float[Tensor, "parts d"]:
        """Return the latents of each part's own point."""
        return self.z[center, torch.arange(self.parts)]

    def keep_nearest(self, center: Tensor, most: int) -> Tensor:
        """Forget all but so many points, the center's and those nearest to it; return its new places."""
        if len(self) <= most:
            return center
        distances = (self.z - self.at(center)).square().sum((1, 2))
        distances[center] = -1
        kept = distances.argsort(stable=True)[:most].sort().values
        own = 1 + kept[:, None] * self.parts + torch.arange(self.parts)
        index = torch.cat([torch.zeros(1, dtype=torch.int64), own.flatten()])
        self.z, self.losses, self._places = self.z[kept], self.losses[kept], self._places[kept]
        self.products = self.products[:, index[:, None], index]
        return torch.searchsorted(kept, center)

    def join(self) -> None:
        """Make one group of all coordinates."""
        self.sizes, self.products = [sum(self.sizes)], self.products.sum(0, keepdim=True)

    @property
    def _used(self) -> int:
        """Places that were ever taken."""
        return int(self._places.max()) + 1 if len(self._places) else 0

    def _free(self) -> Tensor:
        taken = torch.zeros(len(self._values), dtype=torch.bool)
        taken[self._places] = True
        return (~taken).nonzero().flatten()

    def _split(self, values: Tensor) -> Sequence[Tensor]:
        parts: Sequence[Tensor] = values.split(self.sizes, dim=-1)
        return parts

    def state(self) -> dict[str, Tensor]:
        """Return everything as tensors."""
        return {
            "z": self.z,
            "losses": self.losses,
            "products": self.products,
            "values": self._values[: self._used].clone(),
            "places": self._places,
            "target": self._target,
            "length": self._length,
            "sizes": torch.tensor(self.sizes),
        }

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor], room: int) -> "Record":
        """Return what `state` was made of."""
        _, parts, d = state["z"].shape
        record = cls(state["target"], state["sizes"].tolist(), parts, d, room)
        record.z, record.losses, record.products = state["z"], state["losses"], state["products"]
        record._target, record._length = state["target"], state["length"]
        record._places = state["places"]
        record._values[: len(state["values"])] = state["values"]
        return record


def rows_of(center: Int[Tensor, " parts"]) -> Int[Tensor, " parts"]:
    """Return the rows of a record's products that each part's own point has."""
    parts = len(center)
    return 1 + center * parts + torch.arange(parts)


def _joined(sizes: Sequence[int], most: int) -> list[int]:
    """Return the sizes of at most so many groups, neighbors joined."""
    bounds = torch.linspace(0, len(sizes), min(len(sizes), most) + 1).round().int().tolist()
    return [sum(sizes[a:b]) for a, b in itertools.pairwise(bounds)]
