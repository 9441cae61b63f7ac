"""Federated trainings under defenses, each at the learning rate that one rule chooses for it."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import nn

from ggl.base.devices import find_device
from ggl.base.errors import InputError
from ggl.base.random import stream
from ggl.base.weights import save_tensors
from ggl.benchmarks.reproduce.measurements.base import (
    Job,
    Key,
    Limit,
    Measurement,
    Over,
    Places,
    Row,
    Rows,
    file_name,
)
from ggl.commands.square_images import load_square
from ggl.costs.federated import accuracy, train
from ggl.costs.federation import Federation
from ggl.datasets.loading import Dataset
from ggl.defenses import load_defense
from ggl.victims import load_victim

__all__ = ["Trainings"]

VALIDATION = 0.1
"""Share of the training images that no client holds: learning rates are chosen by them."""

TUNING_SEED = 10_000
"""Of the trainings that choose a learning rate; no reported one has it."""

Count = Annotated[int, Field(ge=1)]


class Trainings(Measurement):
    """Accuracy, bytes and states of federated trainings, and what a client's round takes.

    Every learning rate is tried once for every defense, on `TUNING_SEED`; what is best on the validation
    images, the smaller of two alike, is then used for every reported seed.

    Attributes:
        data: an .npz with train_ and test_ arrays, or as for an audit.
        size: pixels a side that images are padded to; None takes them as they are.
        defense: names of defenses.
        learning_rate: those that are tried.
        rounds: of every training.
        at: shares of the rounds at which the model is measured, by name: 0 before the first, 1 at the end.
        images: of the training split, at most; None takes all.
        test_images: of the test split, at most.
        keep: whether states at the times of `at` are kept for sweeps, as DEFENSE-SEED-NAME.safetensors,
            DEFENSE by its place in the list.

    The others are as in `ggl.costs.federation.Federation`.
    """

    kind: Literal["trainings"]
    victim: str
    data: str
    size: Count | None = None
    defense: list[str]
    learning_rate: list[float]
    rounds: Count
    at: Mapping[str, Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=lambda: {"end": 1.0})
    seeds: Count = 3
    images: Count | None = None
    test_images: Count | None = None
    clients: Count = 10
    partition: str = "iid"
    batch_size: Count = 32
    momentum: float = 0.9
    keep: bool = False

    over: ClassVar[Over] = "seeds"
    limits: ClassVar[Mapping[str, Limit]] = {"rounds": "rounds", "seeds": "images"}
    figures: ClassVar[tuple[str, ...]] = (
        "accuracy",
        "validation",
        "learning_rate",
        "client_bytes",
        "rounds_done",
    )

    def axes(self) -> Mapping[str, Sequence[Key]]:
        """Return defenses and the times at which models are measured."""
        return {"defense": self.defense, "at": list(self.at)}

    def jobs(self, places: Places) -> Mapping[str, Job]:
        """Return a job for every defense and learning rate, where there is a choice."""
        if len(self.learning_rate) == 1:
            return {}
        return {
            file_name("rate", number, rate): Job(tried, (self, places, defense, rate))
            for number, defense in enumerate(self.defense)
            for rate in self.learning_rate
        }

    def later_jobs(self, places: Places, done: Mapping[str, Rows]) -> Mapping[str, Job]:
        """Return a job for every defense and seed."""
        best = [self._best(defense, done) for defense in self.defense]
        return {
            file_name("seed", number, seed): Job(trained, (self, places, number, best[number], seed))
            for number in range(len(self.defense))
            for seed in range(self.seeds)
        }

    def units(self) -> int:
        """Return how many seeds it has."""
        return self.seeds

    def times(self) -> dict[int, list[str]]:
        """Return the names of the times of `at` by the rounds done."""
        found: dict[int, list[str]] = {}
        for name, share in self.at.items():
            found.setdefault(round(share * self.rounds), []).append(name)
        return found

    def federation(self, learning_rate: float) -> Federation:
        """Return how the clients train."""
        return Federation(
            clients=self.clients,
            partition=self.partition,
            rounds=self.rounds,
            batch_size=self.batch_size,
            learning_rate=learning_rate,
            momentum=self.momentum,
        )

    def _best(self, defense: str, done: Mapping[str, Rows]) -> float:
        """Return the learning rate of the best validation accuracy; of several the smallest."""
        if len(self.learning_rate) == 1:
            return self.learning_rate[0]
        scores = {
            float(row.keys["learning_rate"]): row.figures["validation"]
            for rows in done.values()
            for row in rows
            if row.keys["defense"] == defense
        }
        return min(rate for rate in scores if scores[rate] == max(scores.values()))


def tried(asked: Trainings, places: Places, defense: str, learning_rate: float) -> Rows:
    """Return the validation accuracy at a learning rate."""
    data = _data(places.fill(asked.data), asked.size, asked.images, asked.test_images)
    victim = _victim(asked, data.training, TUNING_SEED, places.device)
    federation = asked.federation(learning_rate)
    model, _ = train(
        victim,
        data.training.images,
        data.training.labels,
        load_defense(defense),
        federation,
        seed=TUNING_SEED,
    )
    right = accuracy(model, data.validation.images, data.validation.labels, TUNING_SEED)
    return [Row({"defense": defense, "learning_rate": learning_rate}, TUNING_SEED, {"validation": right})]


def trained(asked: Trainings, places: Places, number: int, learning_rate: float, seed: int) -> Rows:
    """Return the accuracies of a training at the times that are asked for, and keep its states."""
    data = _data(places.fill(asked.data), asked.size, asked.images, asked.test_images)
    defense, times = asked.defense[number], asked.times()
    accuracies: dict[str, tuple[float, float, int]] = {}

    def measure(names: Sequence[str], done: int, model: nn.Module) -> None:
        for name in names:
            right, chosen_by = (
                accuracy(model, d.images, d.labels, seed) for d in (data.test, data.validation)
            )
            accuracies[name] = right, chosen_by, done
            if asked.keep:
                save_tensors(Path(places.own) / f"{number}-{seed}-{name}.safetensors", model.state_dict())

    model, took = train(
        _victim(asked, data.training, seed, places.device),
        data.training.images,
        data.training.labels,
        load_defense(defense),
        asked.federation(learning_rate),
        seed=seed,
        watch=lambda done, model: measure(times.get(done, ()), done, model),
    )
    for done, names in times.items():
        if done > took.rounds:  # it diverged: the last finite model is what is left
            measure(names, took.rounds, model)
    common = {"learning_rate": learning_rate, "client_bytes": took.client_bytes}
    timing = {"client_seconds": took.client_seconds, "round_seconds": took.round_seconds}
    return [
        Row(
            {"defense": defense, "at": name},
            seed,
            {"accuracy": right, "validation": known, "rounds_done": done, **common},
            timing,
        )
        for name, (right, known, done) in accuracies.items()
    ]


class _Data(NamedTuple):
    """What clients hold, what chooses learning rates, and what accuracies are of."""

    training: Dataset
    validation: Dataset
    test: Dataset


@functools.lru_cache(maxsize=1)
def _data(source: str, size: int | None, images: int | None, test_images: int | None) -> _Data:
    fit = None if size is None else "pad"
    whole = _some(load_square(source, "train", fit, size), images)
    count = max(1, round(VALIDATION * len(whole.images)))
    order = torch.randperm(len(whole.images), generator=stream(0, "validation"))
    test = _some(load_square(source, "test", fit, size), test_images)
    if test.num_classes != whole.num_classes:
        classes = f"{whole.num_classes} to train, {test.num_classes} to test"
        raise InputError(f"{source}: expected the same classes in both splits, found {classes}")
    return _Data(_chosen(whole, order[count:]), _chosen(whole, order[:count]), test)


def _some(data: Dataset, most: int | None) -> Dataset:
    """Return as many images of a data set, drawn once and for all; all where it has no more."""
    if most is None or most >= len(data.images):
        return data
    return _chosen(data, torch.randperm(len(data.images), generator=stream(0, "some"))[:most])


def _chosen(data: Dataset, chosen: torch.Tensor) -> Dataset:
    return replace(data, images=data.images[chosen], labels=data.labels[chosen])


def _victim(asked: Trainings, data: Dataset, seed: int, device: str) -> nn.Module:
    channels, size, _ = data.images.shape[1:]
    model = load_victim(
        asked.victim, in_channels=channels, num_classes=data.num_classes, image_size=size, seed=seed
    )
    return model.to(find_device(device))
