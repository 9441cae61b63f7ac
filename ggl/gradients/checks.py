"""What a client's batch must be, and what its gradient must not."""

import copy
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ggl.base.errors import GradientError, InputError
from ggl.gradients.view import Gradients

__all__ = [
    "check_classes",
    "check_finite",
    "check_gradient",
    "check_probabilities",
    "check_target",
    "count_classes",
]

UNIT_SUM = 1e-3
"""How far from 1 the probabilities of an image may add up: what bfloat16 rounds."""


def check_finite(gradients: Gradients, what: str) -> Gradients:
    """Return the gradient, or raise `GradientError` where it is not finite."""
    if not all(torch.isfinite(g).all() for g in gradients.values()):
        raise GradientError(f"{what} is not finite: check the victim's weights and the images' range")
    return gradients


def check_gradient(gradients: Gradients, what: str) -> Gradients:
    """Return the gradient, or raise `GradientError` where it is zero or not finite."""
    check_finite(gradients, what)
    if not any(g.any() for g in gradients.values()):
        raise GradientError(f"{what} is zero: there is nothing to match (a converged victim, dead units?)")
    return gradients


def check_classes(labels: Tensor, classes: int) -> None:
    """Raise `InputError` where a label is not a class of the victim."""
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise InputError(
            f"expected labels from 0 to {classes - 1}, which the victim has; found {int(wrong[0])}"
        )


def check_probabilities(labels: Tensor) -> None:
    """Raise `InputError` where the last dimension is not one of probabilities."""
    if labels.isnan().any() or (labels < 0).any():
        raise InputError(
            f"expected soft labels that are probabilities, found {float(labels.min())}; use softmax"
        )
    sums = labels.sum(-1)
    wrong = sums[(sums - 1).abs() > UNIT_SUM]
    if len(wrong):
        raise InputError(
            f"expected soft labels that add up to 1 an image, found {float(wrong[0]):.4g}; use softmax"
        )


def count_classes(model: nn.Module, image: Float[Tensor, "1 c h w"]) -> int:
    """Return how many logits the victim makes of an image.

    Raises:
        InputError: it can't take the image, or does not return logits.
    """
    try:
        with torch.no_grad():
            logits = copy.deepcopy(model).eval()(image)
    except RuntimeError as error:
        raise InputError(
            f"the victim can't take images of shape {tuple(image.shape[1:])}: {str(error).splitlines()[0]}"
        ) from error
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"expected the victim to return logits (n, classes), found {found}")
    return logits.shape[1]


def check_target(target: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
    """Raise `InputError` unless an observed gradient has the victim's parameters, in their shapes."""
    for name, parameter in parameters.items():
        if name not in target:
            raise InputError(f"the shared gradient lacks parameter {name!r} of the victim")
        if target[name].shape != parameter.shape:
            raise InputError(
                f"the shared gradient of {name!r} has shape {tuple(target[name].shape)}, "
                f"the victim's parameter {tuple(parameter.shape)}"
            )
    strange = set(target) - set(parameters)
    if strange:
        raise InputError(f"the shared gradient holds {min(strange)!r}, which the victim has not")
