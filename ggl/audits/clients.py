"""Who shares what in an audit: clients of private batches, of their siblings, and of noise."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ggl.audits.controls import noise_gradient
from ggl.base.random import stream, stream_seed
from ggl.defenses import Client, Defense
from ggl.gradients import GradientOracle, Gradients
from ggl.gradients.batch_statistics import BatchStatistics, statistics_of

__all__ = ["KINDS", "Clients", "noise_client", "rows_of"]

KINDS = ("private", "sibling", "noise")
"""What is attacked: each private batch, other images of its classes, and a noise gradient of its norm."""


@dataclass(frozen=True)
class Clients:
    """The clients of an audit, each with `batch_size` images in a row.

    Attributes:
        images: private ones (n, c, h, w); `siblings` are other images of their classes.
        labels: (n,) of both.
        numbers: the clients' among all, (n / batch_size,). Random streams go by them, so that a client
            meets the same draws whichever others are attacked beside it.
        captured: what the private clients have shared, where that is not computed here.
        statistics: whether running statistics are observed beside what is shared, or those of the private
            clients' batches where they were captured.
    """

    images: Tensor
    siblings: Tensor
    labels: Tensor
    numbers: Sequence[int]
    batch_size: int
    seed: int
    round: int
    rounds: int
    captured: Sequence[Gradients] | None
    statistics: bool | Sequence[BatchStatistics] = False

    def __len__(self) -> int:
        return len(self.numbers)

    def batch_labels(self) -> list[Tensor]:
        """Return every client's labels."""
        return list(self.labels.split(self.batch_size))

    def batches(self) -> list[tuple[Tensor, Tensor]]:
        """Return every client's private images and labels."""
        return list(zip(self.images.split(self.batch_size), self.batch_labels(), strict=True))

    def shared(self, defense: Defense, oracle: GradientOracle, kind: str) -> list[Gradients]:
        """Return what clients of a kind share."""
        if kind == "private" and self.captured is not None:
            return list(self.captured)
        return [
            defense.share(client, stream(self.seed, "client", defense.name, kind, i))
            for i, client in zip(self.numbers, self.of_kind(oracle, kind), strict=True)
        ]

    def observed(self, oracle: GradientOracle, kind: str) -> list[BatchStatistics | None]:
        """Return the batch statistics of clients of a kind; those of noise are of the siblings it hides."""
        if self.statistics is False:
            return [None] * len(self)
        if kind == "private" and self.statistics is not True:
            return list(self.statistics)
        images = self.images if kind == "private" else self.siblings
        return [statistics_of(oracle.model, batch) for batch in images.split(self.batch_size)]

    def of_kind(self, oracle: GradientOracle, kind: str) -> list[Client]:
        """Return clients of private images, of their siblings, or of noise gradients.

        The noise ones hold siblings, and nothing of a private image but its gradient's norm.
        """
        if kind == "noise":
            return self._noise(oracle)
        images = self.images if kind == "private" else self.siblings
        return [
            Client(
                oracle,
                batch,
                labels,
                seed=stream_seed(self.seed, "client noise", kind, i),
                round=self.round,
                rounds=self.rounds,
            )
            for i, batch, labels in zip(
                self.numbers, images.split(self.batch_size), self.batch_labels(), strict=True
            )
        ]

    def _noise(self, oracle: GradientOracle) -> list[Client]:
        privates, siblings = self.of_kind(oracle, "private"), self.of_kind(oracle, "sibling")
        shared = self.captured or [private.gradient() for private in privates]
        return [
            noise_client(private, sibling, g, stream(self.seed, "noise control", i))
            for i, private, sibling, g in zip(self.numbers, privates, siblings, shared, strict=True)
        ]


def rows_of(clients: Sequence[int], batch_size: int) -> list[int]:
    """Return the images' rows of clients."""
    return [k * batch_size + i for k in clients for i in range(batch_size)]


def noise_client(private: Client, sibling: Client, like: Gradients, random: torch.Generator) -> Client:
    """Return the sibling's client with noise instead of its gradients, of the norm of `like`.

    Of several examples each has noise of the norm of a private one's, where they have gradients of their own.
    """
    noisy = sibling.after(noise_gradient(like, random))
    local = private.oracle.local
    if len(private.images) == 1 or (local is not None and not local.is_gradient):
        return noisy
    return noisy.with_examples(lambda: [noise_gradient(g, random) for g in private.examples()])
