"""Several rounds of one client, whose images stayed the same, as one gradient to be matched."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ggl.base.errors import InputError
from ggl.gradients import Gradients
from ggl.victims.losses import Loss, NamedLoss, load_loss, loss_name, losses_of

__all__ = ["EveryRound", "SeveralRounds", "join_gradients"]


class SeveralRounds(nn.Module):
    """The victim as it was in each of several rounds, side by side: outputs (n, rounds · k), round by round.

    With the loss `EveryRound` its gradient holds every round's, so that whatever attacks one update attacks
    all of them jointly. The squared distance is the sum of the rounds', which under noise of one size in
    every round is what the likelihood asks for; the cosine is that of all together, where rounds of larger
    gradients count for more.

    Args:
        victims: the same network with each round's weights, all in the mode that the client trained in.

    Raises:
        InputError: fewer than two rounds.

    Examples:
        >>> import ggl
        >>> from ggl.captures.rounds import EveryRound, SeveralRounds
        >>> sizes = {"in_channels": 1, "num_classes": 10, "image_size": 32}
        >>> rounds = [ggl.load_victim("lenet", **sizes, seed=seed) for seed in (0, 1)]
        >>> data = ggl.load_dataset("fashion-mnist-heldout")
        >>> oracle = ggl.GradientOracle(SeveralRounds(rounds), loss=EveryRound("cross-entropy", 2))
        >>> shared = oracle.observe(data.images[:1], data.labels[:1])
        >>> "rounds.1.fc.weight" in shared
        True
    """

    def __init__(self, victims: Sequence[nn.Module]) -> None:
        super().__init__()
        if len(victims) < 2:
            raise InputError(f"expected at least 2 rounds to be joined, found {len(victims)}")
        self.rounds = nn.ModuleList(victims)
        self.train(victims[0].training)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        """Return the logits of every round in a row."""
        return torch.cat([victim(x) for victim in self.rounds], dim=1)


class EveryRound(NamedLoss):
    """The sum of a loss over rounds, each of its own outputs.

    Attributes:
        name: of the loss, and how many rounds.

    Args:
        loss: of one round, as `ggl.load_loss` reads it.
        rounds: how many.
    """

    def __init__(self, loss: str | Loss, rounds: int) -> None:
        self.loss, self.rounds = load_loss(loss), rounds
        self.name = f"{loss_name(self.loss)} in {rounds} rounds"

    def __call__(self, logits: Float[Tensor, "n k"], labels: Tensor) -> Tensor:
        """Return every image's loss, or one number where the rounds' loss gives one.

        Labels may number the outputs of any round: those of a class stand for the class.
        """
        classes = logits.shape[1] // self.rounds
        if not labels.is_floating_point():
            labels = labels % classes
        elif labels.shape[1] == logits.shape[1]:
            labels = labels.unflatten(1, (self.rounds, classes)).sum(1)
        return torch.stack([losses_of(self.loss, z, labels) for z in logits.chunk(self.rounds, dim=1)]).sum(0)


def join_gradients(rounds: Sequence[Mapping[str, Tensor]]) -> Gradients:
    """Return the rounds' gradients under the names that `SeveralRounds` gives its parameters."""
    return {f"rounds.{r}.{name}": g for r, gradients in enumerate(rounds) for name, g in gradients.items()}
