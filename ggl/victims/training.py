"""Train a victim: its states at chosen steps, from untrained to converged."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from ggl.base.errors import GradientError, InputError
from ggl.base.random import global_stream, stream, stream_seed

__all__ = ["State", "train_victim"]


@dataclass(frozen=True)
class State:
    """A victim after `step` steps of training: every parameter and buffer by name, on the CPU."""

    step: int
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class _Settings:
    marks: Sequence[int]
    batch_size: int
    learning_rate: float
    momentum: float
    seed: int


def train_victim(
    model: nn.Module,
    images: Float[Tensor, "n c h w"],
    labels: Int[Tensor, " n"],
    *,
    marks: Sequence[int],
    learning_rate: float,
    batch_size: int = 64,
    momentum: float = 0.9,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Iterator[State]:
    """Train a copy of the model by SGD with momentum on the cross-entropy; yield its state at every mark.

    It is trained in train mode: batch normalization uses each mini-batch's statistics and updates the
    running ones, dropout is active. Every epoch has an order of its own; the rest that fills no mini-batch
    is left out of it. The same seed gives the same states on the same machine.

    Args:
        model: on the device to train on; it stays as it is.
        images: in [0, 1].
        labels: their classes.
        marks: steps, ascending, 0 for the model as it is; the last one ends the training.
        learning_rate: above 0.
        batch_size: images in a step; all of them where there are fewer.
        momentum: in [0, 1).
        seed: of the order of the images and of what dropout drops.
        progress: called after every step with the steps done.

    Raises:
        InputError: a value out of its range, no images, or not one label an image.
        GradientError: the training diverges, while it runs.
    """
    settings = _Settings(tuple(marks), batch_size, learning_rate, momentum, seed)
    _check(settings)
    if len(images) == 0 or labels.shape != images.shape[:1]:
        raise InputError(
            f"training a victim: expected at least one image and one label for each, "
            f"found {len(images)} images and {len(labels)} labels"
        )
    return _states(copy.deepcopy(model).train(), images, labels, settings, progress)


def _check(settings: _Settings) -> None:
    marks = settings.marks
    if not marks or marks[0] < 0 or any(a >= b for a, b in pairwise(marks)):
        raise InputError(
            "training a victim: expected marks as ascending step counts from 0 on, such as 0,300,3000; "
            f"found {','.join(map(str, marks)) or 'none'}"
        )
    if settings.batch_size < 1:
        raise InputError(
            f"training a victim: expected a batch size of at least 1, found {settings.batch_size}"
        )
    if not 0 < settings.learning_rate < math.inf:
        raise InputError(
            f"training a victim: expected a learning rate above 0, found {settings.learning_rate:g}"
        )
    if not 0 <= settings.momentum < 1:
        raise InputError(f"training a victim: expected a momentum in [0, 1), found {settings.momentum:g}")


def _states(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    settings: _Settings,
    progress: Callable[[int], None] | None,
) -> Iterator[State]:
    device = next(model.parameters()).device
    optimizer = torch.optim.SGD(model.parameters(), settings.learning_rate, settings.momentum)
    batches = _batches(len(images), settings.batch_size, settings.seed)
    done = 0
    for mark in settings.marks:
        while done < mark:
            rows = next(batches)
            with global_stream(stream_seed(settings.seed, "victim dropout", done)):
                loss = F.cross_entropy(model(images[rows].to(device)), labels[rows].to(device))
            if not loss.isfinite():
                raise _diverged(done, settings.learning_rate)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
            if progress is not None:
                progress(done)
        yield State(done, _finite_state(model, done, settings.learning_rate))


def _batches(n: int, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Yield the rows of mini-batches without end."""
    size, epoch = min(batch_size, n), 0
    while True:
        order = torch.randperm(n, generator=stream(seed, "victim training", epoch))
        yield from order[: n - n % size].split(size)
        epoch += 1


def _finite_state(model: nn.Module, step: int, learning_rate: float) -> dict[str, Tensor]:
    tensors = {name: tensor.detach().to("cpu", copy=True) for name, tensor in model.state_dict().items()}
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise _diverged(step, learning_rate)
    return tensors


def _diverged(step: int, learning_rate: float) -> GradientError:
    return GradientError(
        f"training a victim: it diverged within {step} steps: take a learning rate below {learning_rate:g}"
    )
