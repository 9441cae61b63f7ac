"""What a client's batch must be, and what its gradient must not."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ggl.base.errors import GradientError, InputError
from ggl.gradients.view import Gradients
from ggl.victims.losses import (
    CrossEntropy,
    Loss,
    NamedLoss,
    NegativeLogLikelihood,
    classes_of_outputs,
    loss_name,
)

__all__ = ["check_finite", "check_gradient", "check_labels", "check_loss", "check_target", "check_width"]

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


def check_labels(labels: Tensor, images: int, outputs: int, loss: Loss) -> None:
    """Raise `InputError` unless labels are one an image, and what a victim of `outputs` and its loss take.

    Args:
        labels: classes (n,), or numbers (n, k): probabilities of classes, or what each output should be.
        images: n.
        outputs: the victim's logits of an image.
        loss: what is asked of numbers follows from it.
    """
    if labels.shape[:1] != (images,):
        raise InputError(f"expected {images} labels, one an image, found shape {tuple(labels.shape)}")
    if labels.is_floating_point():
        check_width(labels, outputs)
        _check_numbers(labels, loss)
        return
    classes = classes_of_outputs(outputs)
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise InputError(
            f"expected labels from 0 to {classes - 1}, which the victim has; found {int(wrong[0])}"
        )


def check_width(labels: Tensor, outputs: int) -> None:
    """Raise `InputError` unless labels that are no classes are as many an image as the victim's classes."""
    widths = {outputs, classes_of_outputs(outputs)}
    if labels.is_floating_point() and labels.shape[-1] not in widths:
        raise InputError(
            f"expected soft labels of {outputs} probabilities, one a class of the victim, "
            f"found {labels.shape[-1]}"
        )


def check_loss(loss: Loss, outputs: int) -> None:
    """Raise `InputError` for a loss that tells nothing of a victim with so many outputs."""
    if outputs == 1 and isinstance(loss, CrossEntropy | NegativeLogLikelihood):
        raise InputError(
            f"the victim has one output, of which the loss {loss_name(loss)} is the same whatever the label: "
            "take bce, focal or mse"
        )


def _check_numbers(labels: Tensor, loss: Loss) -> None:
    """Raise `InputError` for labels that are no probabilities, where a loss wants these; for others, NaN."""
    distribution = not isinstance(loss, NamedLoss) or loss.wants_probabilities
    least, most = (0, torch.inf) if distribution else (0, 1)
    if labels.isnan().any() or (labels < least).any() or (labels > most).any():
        raise InputError(
            f"expected soft labels that are probabilities, found {float(labels.min())}; use softmax"
            if distribution
            else f"expected labels from 0 to 1 for every output, found {float(labels.min())} to "
            f"{float(labels.max())}"
        )
    sums = labels.sum(-1)
    wrong = sums[(sums - 1).abs() > UNIT_SUM]
    if distribution and len(wrong):
        raise InputError(
            f"expected soft labels that add up to 1 an image, found {float(wrong[0]):.4g}; use softmax"
        )


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
