"""The victim of a command: how many classes it has, and the weights that it gets."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from ggl.base.errors import InputError
from ggl.commands.weight_options import WeightsArgument
from ggl.victims.loading import load_victim, read_num_classes
from ggl.victims.losses import classes_of_outputs

__all__ = ["VictimPlan", "build_victim", "check_labels"]


@dataclass(frozen=True)
class VictimPlan:
    """Which victim a command is about.

    Attributes:
        name: of the victim.
        image_shape: (channels, height, width) of its images.
        num_classes: as was asked; None reads them off the weights, else takes `default`.
        default: where neither says it: the prior's classes, or the data's.
        weights: the file that says how many classes there are.
        seed: of the random weights.
        training: whether it is in train mode.
        output: which of its outputs the logits are.
    """

    name: str
    image_shape: tuple[int, int, int]
    num_classes: int | None
    default: int
    weights: WeightsArgument | None
    seed: int = 0
    training: bool = False
    output: str | None = None

    def classes(self) -> int:
        """Return how many classes the victim has.

        Raises:
            InputError: the file's network has others than were asked for.
            WeightsError: the file cannot be read.
        """
        if self.weights is None:
            return self.num_classes or self.default
        channels, _, size = self.image_shape
        path, key = self.weights.path, self.weights.key
        found = read_num_classes(self.name, path, in_channels=channels, image_size=size, key=key)
        if self.num_classes is not None and found not in (None, self.num_classes):
            raise InputError(
                f"--num-classes {self.num_classes}: {path} is of a network of {found} classes; give {found}, "
                "or leave the option out"
            )
        return self.num_classes or found or self.default


def build_victim(
    plan: VictimPlan, say: Callable[[str], None] | None = None, *, fill: bool = True
) -> tuple[nn.Module, int]:
    """Return the victim that is planned and how many classes it has.

    Args:
        plan: the victim.
        say: is told in a line what was found in the file.
        fill: whether the victim gets the file's weights.

    Raises:
        InputError, WeightsError: as `load_victim`, and `VictimPlan.classes`.
    """
    channels, _, size = plan.image_shape
    classes = plan.classes()
    given = plan.weights if fill else None
    victim = load_victim(
        plan.name,
        in_channels=channels,
        num_classes=classes,
        image_size=size,
        seed=plan.seed,
        weights=None if given is None else given.path,
        key=None if given is None else given.key,
        training=plan.training,
        output=plan.output,
        say=say,
    )
    return victim, classes


def check_labels(source: str, labels: Tensor, classes: int) -> None:
    """Raise `InputError` where images have labels that a victim of so many classes does not know."""
    largest, classes = int(labels.max()), classes_of_outputs(classes)
    if largest >= classes:
        raise InputError(
            f"{source}: expected labels below the victim's {classes} classes, found {largest}; give "
            "images of its classes, or --num-classes as the victim has them"
        )
