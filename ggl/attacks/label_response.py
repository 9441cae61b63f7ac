"""How a victim's head answers to a label under any loss, measured on dummy images.

A row i of the last linear layer gets eᵢ = ∂L/∂hᵢ of an image, h being what the layer returns. Of
cross-entropy eᵢ = pᵢ - yᵢ. Of any other loss, or of a victim that does more to h than a softmax,
e is measured here: its mean over images of class i, cᵢ, and over images that are not, aᵢ. Of a batch's mean
gradient bᵢ = (nᵢ cᵢ + (B - nᵢ) aᵢ) / B, so that class i is there nᵢ = B (aᵢ - bᵢ) / (aᵢ - cᵢ) times.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from ggl.base.errors import InputError, users_code
from ggl.base.random import stream_seed
from ggl.gradients.examination import prepared
from ggl.gradients.sampled import draw_noise
from ggl.victims.losses import Loss, classes_of_outputs, losses_of

__all__ = ["HeadPass", "Response", "last_linear", "pass_head", "respond"]

CLOSE = 1e-4
"""By how much e may differ from softmax less one-hot, of a loss that is a cross-entropy; p is at most 1."""

FAINT = 1e-9


@dataclass(frozen=True)
class HeadPass:
    """What passes through the last linear layer: what it reads and returns, and the logits after it."""

    inputs: Float[Tensor, "m d"]
    outputs: Float[Tensor, "m rows"]
    logits: Float[Tensor, "m k"]


@dataclass(frozen=True)
class Response:
    """What labels do to the gradient of the last linear layer's rows.

    Attributes:
        own: c, (rows,), the mean share of an image of the row's class; of one row, of class 1.
        other: a, (rows,), of an image of another class.
        is_cross_entropy: whether e is the layer's softmax less the one-hot label, on every dummy.
        is_least: whether the label's row was the least of every dummy's under every label: then it is a
            single image's label, as far as the image is no better fitted than the dummies. Of one row,
            whether it was below 0 for class 1 alone.
        is_mean: whether a batch's loss is the mean of its images' losses.
    """

    own: Float64[Tensor, " rows"]
    other: Float64[Tensor, " rows"]
    is_cross_entropy: bool
    is_least: bool
    is_mean: bool

    def counts(self, evidence: Float64[Tensor, " rows"], batch_size: int) -> Float64[Tensor, " classes"]:
        """Return how often each class is there, of the mean gradient `evidence` of the rows.

        Raises:
            InputError: some row does not answer to its label.
        """
        span = self.other - self.own
        if (span.abs() < FAINT).any():
            raise InputError(
                "labels cannot be read: under this loss the last layer does not answer to every label; give "
                "the labels, or have them searched"
            )
        found = batch_size * (self.other - evidence) / span
        return torch.cat([batch_size - found, found]) if len(found) == 1 else found


def respond(
    model: nn.Module,
    loss: Loss,
    layer: str,
    dummies: Float[Tensor, "m c h w"],
    *,
    weighed: bool,
    seed: int = 0,
) -> Response:
    """Measure how the rows of a linear layer answer to labels.

    Args:
        model: the victim, in the mode that clients have.
        loss: that clients minimize.
        layer: its last linear layer.
        dummies: images of the attacker's own.
        weighed: whether rows are summed weights, which get e times the sum of the layer's input; otherwise
            biases.
        seed: of what the victim draws.

    Raises:
        InputError: the layer does not read one vector an image, or has not a row for each output.
        UserCodeError: the victim or its loss raised.
    """
    head = pass_head(model, layer, dummies, seed)
    rows, width = head.outputs.shape[1], head.logits.shape[1]
    if rows != width:
        raise InputError(
            f"labels cannot be read off {layer!r}: expected a row for each of the victim's {width} outputs, "
            f"found {rows}; give the labels, or have them searched"
        )
    classes = classes_of_outputs(width)
    softmax = head.outputs.detach().double().softmax(1).cpu()
    scale = head.inputs.double().sum(1).cpu()[:, None] if weighed else 1.0
    known, least, means = rows > 1, True, []
    for label in range(classes):
        errors = _errors(loss, head, label)
        expected = softmax - (torch.arange(rows) == label).double()
        known = known and bool((errors - expected).abs().max() < CLOSE)
        least = least and _is_least(errors, label)
        means.append((errors * scale).mean(0))
    own, other = _own_and_other(torch.stack(means))
    return Response(own, other, known, least, _is_mean(loss, head.logits.detach()))


def _own_and_other(means: Float64[Tensor, "classes rows"]) -> tuple[Tensor, Tensor]:
    classes, rows = means.shape
    if rows == 1:
        return means[1], means[0]
    own = means.diagonal()
    return own, (means.sum(0) - own) / (classes - 1)


def _is_least(errors: Float64[Tensor, "m rows"], label: int) -> bool:
    if errors.shape[1] == 1:
        return bool((errors < 0).all() if label else (errors > 0).all())
    return bool((errors.argmin(1) == label).all())


def _is_mean(loss: Loss, logits: Float[Tensor, "m k"]) -> bool:
    """Whether the loss of a few dummies under different labels is the mean of each one's."""
    some = logits[: min(4, len(logits))]
    labels = torch.arange(len(some), device=some.device) % classes_of_outputs(some.shape[1])
    whole = losses_of(loss, some, labels).mean()
    each = [losses_of(loss, z[None], y[None]).mean() for z, y in zip(some, labels, strict=True)]
    return bool(torch.isclose(whole, torch.stack(each).mean(), rtol=1e-3))


def _errors(loss: Loss, head: HeadPass, label: int) -> Float64[Tensor, "m rows"]:
    """Return e of every dummy alone under one label."""
    labels = torch.full((len(head.logits),), label, device=head.logits.device)
    found = losses_of(loss, head.logits, labels)
    if found.dim() == 0:
        each = zip(head.logits, labels, strict=True)
        found = torch.stack([losses_of(loss, z[None], y[None]).mean() for z, y in each])
    (errors,) = torch.autograd.grad(found.sum(), head.outputs, retain_graph=True, materialize_grads=True)
    return errors.double().cpu()


def last_linear(model: nn.Module, images: Float[Tensor, "m c h w"]) -> str | None:
    """Return the linear layer that a victim's logits are made by, None without one.

    Of those that reach them with a row for each output it is the one that runs last.

    Raises:
        UserCodeError: the victim raised.
    """
    copied, ran = prepared(model), dict[str, Tensor]()

    def keep(name: str, output: Tensor) -> Tensor:
        ran.pop(name, None)
        ran[name] = output.detach().requires_grad_() if not output.requires_grad else output
        return ran[name]

    for name, module in copied.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda _, _given, output, name=name: keep(name, output))
    parameter = next(copied.parameters())
    with torch.enable_grad(), users_code("the victim"):
        logits = copied(images.to(parameter.device, parameter.dtype))
    fitting = {name: x for name, x in ran.items() if x.shape == logits.shape}
    if not fitting:
        return None
    reached = torch.autograd.grad(logits.sum(), [*fitting.values()], allow_unused=True)
    names = [name for name, g in zip(fitting, reached, strict=True) if g is not None]
    return names[-1] if names else None


def pass_head(model: nn.Module, layer: str, dummies: Float[Tensor, "m c h w"], seed: int) -> HeadPass:
    """Run a model on dummy images and return what passes through a linear layer.

    Args:
        model: the victim, in the mode that clients have; it stays as it is.
        layer: the layer's name.
        dummies: images.
        seed: of what the victim draws.

    Raises:
        InputError: there is no such layer, or it does not read one vector an image.
        UserCodeError: the victim raised.
    """
    copied = prepared(model)
    parts = dict(copied.named_modules())
    if layer not in parts:
        raise InputError(
            f"expected the model that was trained, with a layer {layer!r}; {type(model).__name__} has none: "
            "give the victim as the defense wraps it"
        )
    read: list[Tensor] = []
    returned: list[Tensor] = []

    def keep(_: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        read.append(given[0])
        returned.append(output.detach().requires_grad_())
        return returned[-1]

    parts[layer].register_forward_hook(keep, prepend=True)
    parameter = next(copied.parameters())
    draw_noise(copied, stream_seed(seed, "label noise"))
    with torch.enable_grad(), users_code("the victim"):
        logits = copied(dummies.to(parameter.device, parameter.dtype))
    if len(read) != 1 or read[0].dim() != 2:
        found = ", ".join(str(tuple(given.shape)) for given in read) or "none"
        raise InputError(f"expected layer {layer!r} to read one vector an image, found inputs {found}")
    return HeadPass(read[0].detach(), returned[0], logits)
