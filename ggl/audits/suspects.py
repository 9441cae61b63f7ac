"""The usual suspects, where a client's images do not make its captured update: what else it may have done."""

import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from ggl.audits.simulated_client import SimulatedClient
from ggl.gradients import LocalTraining
from ggl.victims.losses import CrossEntropy, Loss, load_loss, losses_of

__all__ = ["Suspect", "scaled_loss", "suspects"]

Suspect: TypeAlias = tuple[str, SimulatedClient]
"""What a client may have done, in words, and that client."""

GRAY: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "MNIST's mean and deviation": ((0.1307,), (0.3081,)),
    "Fashion-MNIST's mean and deviation": ((0.2860,), (0.3530,)),
}
COLOR: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "ImageNet's means and deviations": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CIFAR-10's means and deviations": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "CIFAR-10's means and another table's deviations": (
        (0.4914, 0.4822, 0.4465),
        (0.2023, 0.1994, 0.2010),
    ),
    "CIFAR-100's means and deviations": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
"""What tutorials and libraries normalize images of one channel and of three with."""

OPTIMIZERS = (
    "sgd",
    "sgd:momentum=0.9",
    "sgd:momentum=0.9,nesterov=1",
    "sgd:weight_decay=0.0005",
    "sgd:clip_norm=1.0",
    "adam",
    "adamw",
)

PERMUTED = 4
"""Images whose every order is tried."""


def suspects(client: SimulatedClient) -> Iterator[Suspect]:
    """Yield clients that did one thing otherwise: to pixels, mode, loss, steps or their order."""
    for what, images in _pixels(client.images):
        yield what, replace(client, images=images)
    yield from _modes(client)
    for what, loss in _losses(client):
        yield what, replace(client, loss=loss)
    if client.local is not None:
        for what, local in _steps(client.local, len(client.images)):
            yield what, replace(client, local=local)
        if len(client.images) > 1:
            yield from _orders(client)


def _pixels(images: Tensor) -> Iterator[tuple[str, Tensor]]:
    yield "pixels from 0 to 255", images * 255
    yield "pixels divided by 255 once more", images / 255
    normalized = {"mean 0.5 and deviation 0.5, which is [-1, 1]": ((0.5,), (0.5,))}
    for what, (mean, deviation) in {**normalized, **(COLOR if images.shape[1] == 3 else GRAY)}.items():
        m, s = (
            torch.tensor(values, dtype=images.dtype).view(-1, 1, 1).to(images) for values in (mean, deviation)
        )
        yield f"pixels normalized by {what}", (images - m) / s
        yield f"pixels that were not normalized, where the victim does so by {what}", images * s + m
    yield "inverted pixels, 1 - x", 1 - images
    yield "mirrored images", images.flip(-1)
    if images.shape[1] == 3:
        yield "channels in the order blue, green, red", images.flip(1)


def _modes(client: SimulatedClient) -> Iterator[Suspect]:
    mode = "eval" if client.victim.training else "train"
    yield f"the victim in {mode} mode", replace(client, victim=_in_mode(client, mode == "train"))


def _in_mode(client: SimulatedClient, training: bool) -> torch.nn.Module:
    return copy.deepcopy(client.victim).train(training)


def _losses(client: SimulatedClient) -> Iterator[tuple[str, Loss]]:
    local = client.local
    batch = len(client.images) if local is None else len(local.rows(0, len(client.images)))
    if batch > 1:
        yield "a loss that is summed over the minibatch, not averaged", scaled_loss(client.loss, float(batch))
    if isinstance(client.loss, CrossEntropy):
        yield "cross-entropy with label smoothing 0.1", load_loss("cross-entropy:smoothing=0.1")
        yield "cross-entropy of softmax, taken twice", _of_softmax
        yield "binary cross-entropy of one-hot labels", load_loss("bce")
        yield "squared error of logits to one-hot labels", load_loss("mse")


def scaled_loss(loss: Loss, factor: float) -> Loss:
    """Return a loss `factor` times as large."""

    def scaled(logits: Tensor, labels: Tensor) -> Tensor:
        return factor * losses_of(loss, logits, labels)

    return scaled


def _of_softmax(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.softmax(-1), labels, reduction="none")


def _steps(local: LocalTraining, images: int) -> Iterator[tuple[str, LocalTraining]]:
    steps, size = local.steps, local.batch_size or images
    for count in sorted({1, 2, steps // 2, steps - 1, steps + 1, 2 * steps, -(-images // size)} - {0, steps}):
        yield f"{count} local step{'s' * (count > 1)}", replace(local, steps=count)
    for other in sorted({1, 2, 4, 8, images} - {size}):
        if other <= images:
            whole = "the whole batch" if other == images else f"{other} image{'s' * (other > 1)}"
            yield f"local steps of {whole}", replace(local, batch_size=other)
    for text in OPTIMIZERS:
        if text != local.rule.name:
            yield f"the optimizer {text}", replace(local, momentum=0.0, optimizer=text)


def _orders(client: SimulatedClient) -> Iterator[Suspect]:
    """Yield other orders of its images, one for each way to divide them among its steps."""
    count, local = len(client.images), client.local
    if local is None or local.batch_size in (None, count):
        return
    orders = [tuple(reversed(range(count)))]
    if count <= PERMUTED:
        orders = list(itertools.permutations(range(count)))
    known = {_division(local, range(count))}
    for order in orders:
        if (division := _division(local, order)) not in known:
            known.add(division)
            rows, text = list(order), ", ".join(map(str, order))
            images, labels = client.images[rows], client.labels[rows]
            yield f"its images in the order {text}", replace(client, images=images, labels=labels)


def _division(local: LocalTraining, order: Sequence[int]) -> tuple[frozenset[int], ...]:
    rows = (local.rows(step, len(order)) for step in range(local.steps))
    return tuple(frozenset(order[i] for i in step) for step in rows)
