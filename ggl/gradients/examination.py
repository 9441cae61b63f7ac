"""Victims made ready for the backends, and looked at before anything is differentiated."""

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ggl.base.errors import InputError, cause
from ggl.base.random import stream, stream_seed
from ggl.gradients.checks import check_loss
from ggl.gradients.dropout import with_sampled_dropout
from ggl.gradients.sampled import draw_noise, global_noise, with_global_noise
from ggl.victims.losses import Loss, losses_of
from ggl.victims.outputs import bare_module, with_output

__all__ = ["Examined", "examine", "prepared", "probe_images"]

REPEATED = 1e-3
"""Relative difference of two passes with the same seeds beyond which a victim is no function of its images;
a GPU's sums differ by less."""

SEEDS = 9


@dataclass(frozen=True)
class Examined:
    """What one look at a victim shows.

    Attributes:
        outputs: k of the logits (n, k).
        draws: whether it draws from the global random streams, torch's, NumPy's or Python's.
        has_image_losses: whether its loss gives every image's own, and not one number for a batch.
    """

    outputs: int
    draws: bool
    has_image_losses: bool


def prepared(model: nn.Module, output: str | None = None) -> nn.Module:
    """Return a copy of a victim that returns its logits alone, and whose every draw follows from a seed.

    Args:
        model: the victim, in the mode that the clients have; it stays as it is.
        output: which of its outputs, as in `ggl.victims.outputs.with_output`.

    Raises:
        InputError: it is TorchScript, or can't be copied.
    """
    bare = bare_module(model, "the victim")
    try:
        copied = with_sampled_dropout(bare)
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"expected a victim that can be copied, found one that can't: {cause(error)}"
        ) from error
    return with_global_noise(with_output(copied, output))


def examine(model: nn.Module, loss: Loss, images: Tensor) -> Examined:
    """Look at a prepared victim, in its mode, and at its loss.

    Args:
        model: the victim; a copy of it is run.
        loss: that its clients minimize.
        images: two, of the shape that it is to take.

    Raises:
        InputError: it can't take them, does not return logits, or returns something else every time; or
            its one output tells a loss nothing.
    """
    copied = copy.deepcopy(model)
    draw_noise(copied, 0)
    try:
        with torch.no_grad():
            first, again = copied(images), copied(images)
            draws = _draws(copied, images, first)
    except InputError:
        raise
    except Exception as error:
        mode = "train" if model.training else "eval"
        raise InputError(
            f"the victim can't take images of shape {tuple(images.shape[1:])} in {mode} mode: {cause(error)}"
        ) from error
    if not isinstance(first, Tensor) or first.dim() != 2 or len(first) != len(images):
        found = tuple(first.shape) if isinstance(first, Tensor) else type(first).__name__
        raise InputError(
            f"expected the victim to return logits (n, classes), found {found} of {len(images)} images"
        )
    if float((first - again).abs().max()) > REPEATED * float(first.abs().max()):
        raise InputError(
            "expected a victim whose answer follows from its images and a seed, found another one in the "
            "next pass: it keeps a state, or draws from a generator of its own; call eval(), --victim-mode "
            "eval on the command line, or have it draw from torch's global generator"
        )
    check_loss(loss, first.shape[1])
    return Examined(first.shape[1], draws, _has_image_losses(loss, first))


def _has_image_losses(loss: Loss, logits: Float[Tensor, "2 k"]) -> bool:
    try:
        return losses_of(loss, logits, torch.arange(2, device=logits.device)).dim() == 1
    except Exception:  # noqa: BLE001  it takes no such labels, or raises whenever it is asked
        return False


def _draws(model: nn.Module, images: Tensor, first: object) -> bool:
    """Whether what the global random streams give enters a victim's answer.

    Python's alone may be moved by checks of types: there it counts whether any of some seeds changes the
    answer.
    """
    noise = global_noise(model)
    if noise is None or not noise.drew or noise.by_rows or not isinstance(first, Tensor):
        return noise is not None and noise.by_rows
    for seed in range(1, SEEDS):
        noise.seed = stream_seed(0, "global", seed)
        if not torch.equal(model(images), first):
            return True
    return False


def probe_images(like: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Return two images to look at a victim with, on the device and in the dtype of `like`."""
    return torch.rand((2, *shape), generator=stream(0, "victim probe")).to(like)
