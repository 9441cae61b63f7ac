"""Federated training under a defense: clients with shares of the data, and a server that averages.

FedSGD, which is federated averaging with one local step (McMahan et al., arXiv 1602.05629, section 2).
"""

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ggl.base.errors import GradientError, InputError
from ggl.base.random import stream, stream_seed
from ggl.costs.federation import Federation, Training
from ggl.costs.partitions import split_clients
from ggl.defenses import Client, Defense
from ggl.gradients import GradientOracle, Gradients
from ggl.gradients.examination import prepared
from ggl.gradients.sampled import draw_noise

__all__ = ["accuracy", "rehearse", "train"]

TEST_BATCH = 500


def train(
    victim: nn.Module,
    images: Float[Tensor, "n c h w"],
    labels: Int[Tensor, " n"],
    defense: Defense,
    federation: Federation,
    *,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
    watch: Callable[[int, nn.Module], None] | None = None,
) -> tuple[nn.Module, Training]:
    """Train a copy of the victim, wrapped by the defense; return it and what that took.

    It is trained in the mode (train, eval) that it has. A zero gradient is shared as any other, and is no
    error: a client whose batch is fitted exactly has nothing to say. A training that diverges ends early,
    and the model is the last finite one.

    Args:
        victim: untrained or not; it stays as it is.
        images: of all clients, in [0, 1].
        labels: their classes.
        defense: what clients do before they share.
        federation: how they train.
        seed: of the split, the mini-batches, the drawn clients and the defense's noise.
        progress: called after every round with the rounds done.
        watch: called with the rounds done and the model, which it must leave as it is, before the first
            round and after every one.

    Raises:
        InputError: a victim with batch normalization, dropout that no seed can draw, or inputs that do not
            fit.
    """
    model = _wrapped(victim, defense, seed)
    server = _Server(model, federation.learning_rate, federation.momentum)
    clients = _Clients(images, labels, defense, federation, seed)
    done, started, watching = 0, _clock(model), 0.0
    while True:
        if watch is not None:
            begun = _clock(model)
            watch(done, model)
            watching += _clock(model) - begun
        if done == federation.rounds or not server.step(clients.update(model, done)):
            break
        done += 1
        if progress is not None:
            progress(done)
    seconds = (_clock(model) - started - watching) / max(done, 1)
    return model, Training(done, done < federation.rounds, *clients.means(), seconds)


def rehearse(
    victim: nn.Module,
    images: Float[Tensor, "n c h w"],
    labels: Int[Tensor, " n"],
    defense: Defense,
    federation: Federation,
) -> None:
    """Compute the first round of a training and forget it: whatever does not fit is refused here."""
    model = _wrapped(victim, defense, seed=0)
    _Clients(images, labels, defense, federation, seed=0).update(model, 0)


def accuracy(
    model: nn.Module, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"], seed: int = 0
) -> float:
    """Return the share of images that are classified right, in eval mode.

    An image whose logits are not finite counts as wrong. A model that samples draws noise of `seed`.
    """
    model = prepared(model).eval()
    device = next(model.parameters()).device
    right = 0
    for i, (x, y) in enumerate(zip(images.split(TEST_BATCH), labels.split(TEST_BATCH), strict=True)):
        draw_noise(model, stream_seed(seed, "test", i), regularized=False)
        with torch.no_grad():
            logits: Tensor = model(x.to(device)).cpu()
        found = (logits.argmax(1) == y) & logits.isfinite().all(1)
        right += int(found.sum())
    return right / len(labels)


def _wrapped(victim: nn.Module, defense: Defense, seed: int) -> nn.Module:
    """Return a copy of the victim as the defense wraps it, on the victim's device.

    Raises:
        InputError: it has batch normalization, whose running statistics no shared gradient updates.
    """
    device = next((p.device for p in victim.parameters()), None)
    model = copy.deepcopy(defense.wrap(victim, seed)).to(device)
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise InputError(
                f"federated training: the victim has batch normalization ({name!r}), whose running "
                "statistics no shared gradient updates; use one without, such as resnet18-groupnorm"
            )
    return model


class _Oracle(GradientOracle):
    """An oracle of a model in training: its gradient may be zero, and the time that it takes is counted."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, backend="sequential")
        self.seconds = 0.0

    def observe(
        self, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"], *, seed: int = 0
    ) -> Gradients:
        return self.gradient(images, labels, seed=seed)

    def gradient(
        self, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"], *, seed: int = 0
    ) -> Gradients:
        started = _clock(self.model)
        try:
            return super().gradient(images, labels, seed=seed)
        finally:
            self.seconds += _clock(self.model) - started


@dataclass
class _Clients:
    """The clients: their shares of the data, what their defenses keep, and what sharing has cost."""

    images: Tensor
    labels: Tensor
    defense: Defense
    federation: Federation
    seed: int
    costs: list[tuple[float, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        count, partition = self.federation.clients, self.federation.partition
        self.shards = split_clients(self.labels, count, partition, self.seed)
        self.memories: list[dict[str, Gradients]] = [{} for _ in self.shards]

    def means(self) -> tuple[float, float, float]:
        """Return the mean bytes, seconds, and seconds spent on gradients."""
        if not self.costs:
            return math.nan, math.nan, math.nan
        size, seconds, gradient = np.mean(self.costs, axis=0)
        return float(size), float(seconds), float(gradient)

    def update(self, model: nn.Module, t: int) -> Gradients | None:
        """Return the mean of what the round's clients share, by batch size; None if it is not finite."""
        oracle = _Oracle(model)
        batches = {k: self._batch(k, t) for k in self._drawn(t)}
        total = sum(map(len, batches.values()))
        mean: Gradients = {}
        for k, batch in batches.items():
            try:
                shared = self._share(oracle, k, batch, t)
            except GradientError:
                return None
            for name, g in shared.items():
                weighted = g * (len(batch) / total)
                mean[name] = mean[name] + weighted if name in mean else weighted
        return mean

    def _share(self, oracle: _Oracle, k: int, batch: Tensor, t: int) -> Gradients:
        client = Client(
            oracle,
            self.images[batch],
            self.labels[batch],
            seed=stream_seed(self.seed, "client noise", t, k),
            round=t,
            rounds=self.federation.rounds,
            memory=self.memories[k],
        )
        generator = stream(self.seed, "defense", t, k)
        before, started = oracle.seconds, _clock(oracle.model)
        shared = self.defense.share(client, generator)
        seconds = _clock(oracle.model) - started
        self.costs.append((self.defense.size(shared), seconds, oracle.seconds - before))
        return shared

    def _drawn(self, t: int) -> list[int]:
        """Return the round's clients, max(1, participation · clients) of them."""
        count = max(1, round(self.federation.participation * len(self.shards)))
        order = torch.randperm(len(self.shards), generator=stream(self.seed, "clients", t))
        return sorted(order[:count].tolist())

    def _batch(self, k: int, t: int) -> Tensor:
        """Return a mini-batch of client k, drawn without replacement."""
        shard = self.shards[k]
        order = torch.randperm(len(shard), generator=stream(self.seed, "batch", t, k))
        return shard[order[: self.federation.batch_size]]


class _Server:
    """SGD with momentum on the global model: v ← m v + g, w ← w - lr v."""

    def __init__(self, model: nn.Module, learning_rate: float, momentum: float) -> None:
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.parameters, self.learning_rate, self.momentum = trained, learning_rate, momentum
        self.velocity = {name: torch.zeros_like(p) for name, p in trained.items()}

    def step(self, gradient: Gradients | None) -> bool:
        """Take the step where there is a gradient and the new weights are finite; return whether it was."""
        if gradient is None:
            return False
        with torch.no_grad():
            velocity = {name: self.momentum * v + gradient[name] for name, v in self.velocity.items()}
            weights = {name: p - self.learning_rate * velocity[name] for name, p in self.parameters.items()}
            if not _finite(weights):
                return False
            for name, p in self.parameters.items():
                p.copy_(weights[name])
        self.velocity = velocity
        return True


def _finite(tensors: Mapping[str, Tensor]) -> bool:
    return all(bool(t.isfinite().all()) for t in tensors.values())


def _clock(model: nn.Module) -> float:
    """Return a time in seconds, once the model's device has done all that it was given."""
    device = next(model.parameters()).device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
