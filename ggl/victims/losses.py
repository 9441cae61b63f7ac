"""What a client minimizes: losses by name, and those of the user's own."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from ggl.base.errors import InputError, users_code
from ggl.base.options import build, parameters_of, read_options
from ggl.victims.catalog import losses

__all__ = [
    "BinaryCrossEntropy",
    "CrossEntropy",
    "Focal",
    "Loss",
    "NamedLoss",
    "NegativeLogLikelihood",
    "SquaredError",
    "classes_of_outputs",
    "load_loss",
    "loss_name",
    "losses_of",
]

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""From logits (n, k) and labels, classes (n,) or numbers (n, k), to losses (n,), whose mean is the client's;
or to the client's loss itself, one number."""

Labels: TypeAlias = Int[Tensor, " n"] | Float[Tensor, "n c"]


class NamedLoss(ABC):
    """A loss that is registered under a name.

    Attributes:
        name: in the form that loads it again ("cross-entropy:smoothing=0.1").
        wants_probabilities: whether labels that are no classes have to add up to 1 an image.
    """

    name: str
    wants_probabilities: ClassVar[bool] = True

    @abstractmethod
    def __call__(
        self, logits: Float[Tensor, "n k"], labels: Labels
    ) -> Float[Tensor, " n"] | Float[Tensor, ""]:
        """Return every image's loss, or the batch's where images do not count alike."""


class CrossEntropy(NamedLoss):
    """Cross-entropy of the softmax; smoothing spreads labels, weights weigh classes.

    It is that of `torch.nn.functional.cross_entropy`. With weights the client's loss is Σ w[yᵢ] lᵢ / Σ w[yᵢ],
    so that a batch's is no mean of its images'.

    Args:
        smoothing: share of the label that is spread over all classes, from 0 to below 1.
        weights: of the classes, "1/2/0.5"; None counts all alike.
    """

    def __init__(self, smoothing: float = 0.0, *, weights: str | None = None) -> None:
        if not 0 <= smoothing < 1:
            raise InputError(f"cross-entropy: expected smoothing from 0 to below 1, found {smoothing:g}")
        self.smoothing, self.weights = smoothing, _numbers("cross-entropy", weights)
        self.name = _name("cross-entropy", smoothing=smoothing or None, weights=weights)

    def __call__(
        self, logits: Float[Tensor, "n k"], labels: Labels
    ) -> Float[Tensor, " n"] | Float[Tensor, ""]:
        """Return the loss of each image, or the weighted mean of all."""
        weights, reduction = _weights_for(self.name, self.weights, logits), "none"
        if weights is not None:
            reduction = "mean"
        return F.cross_entropy(logits, labels, weights, reduction=reduction, label_smoothing=self.smoothing)


class NegativeLogLikelihood(NamedLoss):
    """Minus the log-probability of the label, of a victim that returns log-probabilities.

    Args:
        weights: of the classes, as of cross-entropy.
    """

    def __init__(self, *, weights: str | None = None) -> None:
        self.weights = _numbers("nll", weights)
        self.name = _name("nll", weights=weights)

    def __call__(
        self, logits: Float[Tensor, "n k"], labels: Labels
    ) -> Float[Tensor, " n"] | Float[Tensor, ""]:
        """Return the loss of each image, or the weighted mean of all."""
        weights = _weights_for(self.name, self.weights, logits)
        if labels.is_floating_point():
            rows = labels if weights is None else labels * weights
            return -(rows * logits).sum(1)
        return F.nll_loss(logits, labels, weights, reduction="none" if weights is None else "mean")


class BinaryCrossEntropy(NamedLoss):
    """Cross-entropy of a sigmoid for each output: of one logit, or of many labels.

    An image's loss is the mean over its outputs. A victim of one output tells class 1 from class 0. Of
    several each is a yes or no of its own: a class is yes to itself and no to the others, and labels (n, k)
    are numbers from 0 to 1.

    Args:
        positive: how much more a yes counts than a no, above 0.
    """

    wants_probabilities = False

    def __init__(self, positive: float = 1.0) -> None:
        if not positive > 0:
            raise InputError(f"bce: expected positive above 0, found {positive:g}")
        self.positive = positive
        self.name = _name("bce", positive=None if positive == 1 else positive)

    def __call__(self, logits: Float[Tensor, "n k"], labels: Labels) -> Float[Tensor, " n"]:
        """Return the loss of each image."""
        positive = logits.new_tensor(self.positive)
        found = F.binary_cross_entropy_with_logits(
            logits, _targets(logits, labels), pos_weight=positive, reduction="none"
        )
        return found.mean(1)


class SquaredError(NamedLoss):
    """Squared error to the one-hot label, the mean over outputs; of one output to 0 or 1."""

    name = "mse"
    wants_probabilities = False

    def __call__(self, logits: Float[Tensor, "n k"], labels: Labels) -> Float[Tensor, " n"]:
        """Return the loss of each image."""
        return (logits - _targets(logits, labels)).square().mean(1)


class Focal(NamedLoss):
    """Cross-entropy that counts fitted images less, -(1 - p)^γ log p.

    Lin et al., Focal Loss for Dense Object Detection (arXiv 1708.02002, eq. 4), p the label's softmax, or of
    one output its sigmoid.

    Args:
        gamma: γ, at least 0; 0 is the cross-entropy.
        weights: of the classes, α of equation 5, "1/2/0.5"; the client's loss stays the mean over images.
    """

    def __init__(self, gamma: float = 2.0, *, weights: str | None = None) -> None:
        if not gamma >= 0:
            raise InputError(f"focal: expected gamma to be at least 0, found {gamma:g}")
        self.gamma, self.weights = gamma, _numbers("focal", weights)
        self.name = _name("focal", gamma=gamma, weights=weights)

    def __call__(self, logits: Float[Tensor, "n k"], labels: Labels) -> Float[Tensor, " n"]:
        """Return the loss of each image."""
        if logits.shape[1] == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        logarithms = logits.log_softmax(1)
        rows = labels if labels.is_floating_point() else _one_hot(labels, logits)
        losses = -(1 - logarithms.exp()).pow(self.gamma) * logarithms
        weights = _weights_for(self.name, self.weights, logits)
        return (losses * (rows if weights is None else rows * weights)).sum(1)


class UsersLoss:
    """A loss of the user's own; what it raises is named as its.

    Attributes:
        name: `package.module:function`, with its options.
    """

    def __init__(self, name: str, function: Loss) -> None:
        self.name, self.function = name, function

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return what the user's loss returns."""
        with users_code(f"loss {self.name!r}"):
            if isinstance(self.function, nn.Module):
                self.function.to(logits.device)
            return self.function(logits, labels)


def load_loss(specification: str | Loss) -> Loss:
    """Return the loss of "name", "name:option=value" or `package.module:function`; a function as it is.

    The user's own is a function of logits (n, k) and labels (n,) that returns losses (n,) or one number,
    whatever its name: such a function, a class whose instances are, such as `torch.nn:CrossEntropyLoss`,
    or one of no arguments that makes it. Options are its further parameters.

    Raises:
        UnknownNameError: a name or an option that is not known.
        InputError: an option that is missing, of the wrong kind or out of range, or what was found is
            no loss.

    Examples:
        >>> ggl.load_loss("cross-entropy")(torch.zeros(2, 10), torch.tensor([0, 1])).shape
        torch.Size([2])
    """
    if not isinstance(specification, str):
        return specification
    entry: Any
    entry, text = losses.resolve(specification)
    what = f"loss {specification!r}"
    if isinstance(entry, type) and issubclass(entry, NamedLoss):
        named: NamedLoss = build(what, entry, text)
        return named
    return UsersLoss(specification, _users_function(what, entry, text))


def _users_function(what: str, entry: Any, text: str | None) -> Loss:
    if isinstance(entry, type):
        entry, text = build(what, entry, text), None
    elif inspect.isfunction(entry):
        parameters = list(parameters_of(what, entry).values())
        if len(parameters) < 2:
            entry, text = build(what, entry, text), None
        elif text is not None:
            kinds = {p.name: p.annotation for p in parameters[2:]}
            entry, text = partial(entry, **read_options(what, text, kinds)), None
    if not callable(entry) or text is not None:
        found = type(entry).__name__ if text is None else f"the options {text!r} of {type(entry).__name__}"
        raise InputError(f"{what}: expected a function of logits and labels, found {found}")
    function: Loss = entry
    return function


def loss_name(loss: Loss) -> str:
    """Return what a loss is called in results and in messages."""
    name = getattr(loss, "name", None)
    if isinstance(loss, NamedLoss | UsersLoss) and isinstance(name, str):
        return name
    kind = loss if inspect.isfunction(loss) else type(loss)
    return f"{kind.__module__}:{kind.__qualname__}"


def losses_of(loss: Loss, logits: Float[Tensor, "n k"], labels: Tensor) -> Tensor:
    """Return a loss's numbers, (n,) or of no dimension.

    Raises:
        InputError: it returned something else.
    """
    found: object = loss(logits, labels)
    if not isinstance(found, Tensor) or tuple(found.shape) not in ((), (len(logits),)):
        shape = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise InputError(
            f"loss {loss_name(loss)!r}: expected losses ({len(logits)},), one an image, or one number, "
            f"found {shape}"
        )
    return found


def classes_of_outputs(width: int) -> int:
    """Return how many classes a victim of `width` outputs tells apart: two where it has one."""
    return max(width, 2)


def _targets(logits: Float[Tensor, "n k"], labels: Labels) -> Float[Tensor, "n k"]:
    """Return the number that every output should be: of one output, 1 for class 1."""
    if labels.is_floating_point():
        return labels[:, -logits.shape[1] :]
    return labels[:, None].to(logits.dtype) if logits.shape[1] == 1 else _one_hot(labels, logits)


def _one_hot(labels: Int[Tensor, " n"], logits: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    classes = torch.arange(logits.shape[1], device=logits.device)
    return (labels[:, None] == classes).to(logits.dtype)


def _numbers(what: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        found = tuple(float(part) for part in text.split("/"))
    except ValueError as error:
        raise InputError(f"{what}: expected weights such as 1/2/0.5, found {text!r}") from error
    if not all(0 < number < float("inf") for number in found):
        raise InputError(f"{what}: expected weights above 0, found {text!r}")
    return found


def _weights_for(name: str, weights: tuple[float, ...] | None, logits: Tensor) -> Tensor | None:
    if weights is None:
        return None
    if len(weights) != logits.shape[1]:
        raise InputError(f"{name}: expected {logits.shape[1]} weights, one a class, found {len(weights)}")
    return logits.new_tensor(weights)


def _name(name: str, **options: object) -> str:
    given = [
        f"{option}={value:g}" if isinstance(value, float) else f"{option}={value}"
        for option, value in options.items()
        if value is not None
    ]
    return ":".join([name, ",".join(given)]) if given else name
