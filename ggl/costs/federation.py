"""How clients train together, and what a training took."""

import math
from dataclasses import dataclass

from ggl.base.errors import InputError
from ggl.costs.partitions import read_concentration

__all__ = ["Federation", "Training"]


@dataclass(frozen=True)
class Federation:
    """How the clients train.

    Attributes:
        clients: how many there are.
        partition: how the data is split among them, as in `split_clients`.
        rounds: server steps.
        batch_size: examples in a client's mini-batch; all of its own where it has fewer.
        participation: the share of clients, in (0, 1], drawn for each round.
        learning_rate: of the server's step.
        momentum: of the server's step, in [0, 1).

    Raises:
        InputError: a value is out of its range.
    """

    clients: int = 10
    partition: str = "iid"
    rounds: int = 300
    batch_size: int = 32
    participation: float = 1.0
    learning_rate: float = 0.05
    momentum: float = 0.9

    def __post_init__(self) -> None:
        for name in ("clients", "rounds", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"federated training: expected {name} to be at least 1, found {getattr(self, name)}"
                )
        if not 0 < self.participation <= 1:
            raise InputError(
                f"federated training: expected participation in (0, 1], found {self.participation:g}"
            )
        if not 0 < self.learning_rate < math.inf:
            raise InputError(
                f"federated training: expected a learning rate above 0, found {self.learning_rate:g}"
            )
        if not 0 <= self.momentum < 1:
            raise InputError(f"federated training: expected a momentum in [0, 1), found {self.momentum:g}")
        read_concentration(self.partition)


@dataclass(frozen=True)
class Training:
    """What a training took: means over clients and rounds, NaN where nothing was shared.

    Attributes:
        rounds: server steps done.
        diverged: whether training ended early because a gradient or the next weights were not finite.
        client_bytes: that one client sends in one round.
        client_seconds: that one client takes to make what it shares.
        gradient_seconds: the part of these in which the victim's gradients are computed, as many of them
            as the defense asks for.
        round_seconds: that one round takes here, the clients one after the other.
    """

    rounds: int
    diverged: bool
    client_bytes: float
    client_seconds: float
    gradient_seconds: float
    round_seconds: float
