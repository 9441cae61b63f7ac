"""What is attacked: one observed gradient, and what came with it."""

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from ggl.gradients import Gradients
from ggl.gradients.batch_statistics import BatchStatistics

__all__ = ["Target"]


@dataclass(frozen=True)
class Target:
    """One observed gradient to invert; its name seeds the search.

    Attributes:
        labels: (b,) of the private batch, or b alone where the attacker does not know them.
        statistics: of the batch at the victim's batch normalization, where they were observed.

    Examples:
        >>> victim = ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=32)
        >>> data = ggl.load_dataset("fashion-mnist-heldout")
        >>> shared = ggl.GradientOracle(victim).observe(data.images[:2], data.labels[:2])
        >>> ggl.Target("client 7", shared, data.labels[:2]).batch_size
        2
    """

    name: str
    shared: Gradients
    labels: Int[Tensor, " b"] | int
    statistics: BatchStatistics | None = None

    @property
    def batch_size(self) -> int:
        """Images behind the gradient."""
        return self.labels if isinstance(self.labels, int) else len(self.labels)

    def tensors(self) -> list[Tensor]:
        """Return what the target is known by, whatever order its gradient's parameters came in."""
        known = self.statistics
        observed = () if known is None else (*known.means.values(), *known.variances.values())
        return [*(self.shared[name] for name in sorted(self.shared)), *observed]
