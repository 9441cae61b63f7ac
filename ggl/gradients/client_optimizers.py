"""The optimizers that clients train with, pure and differentiable: for every candidate at once."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from ggl.base.errors import InputError
from ggl.base.options import build, read_options, specification
from ggl.base.registry import unknown_name
from ggl.gradients.view import Clip, Gradients

__all__ = ["CLIENT_OPTIMIZERS", "Adam", "AdamW", "ClientOptimizer", "Sgd", "load_client_optimizer"]

Schedule: TypeAlias = Literal["constant", "linear", "cosine", "exponential", "step"]
State: TypeAlias = Mapping[str, Gradients]
"""What an optimizer keeps from step to step, by name and parameter; empty before the first."""


@dataclass(frozen=True, kw_only=True)
class ClientOptimizer(ABC):
    """How a client's step follows from its gradient: w ← w - η f_k d_k, d_k the optimizer's direction.

    A client begins every round with a fresh state (momenta and step counts at zero), as clients do that
    make their optimizer anew.

    Attributes:
        weight_decay: λ; added to the gradient as λ w, but of `adamw`, which decays apart.
        clip_norm: the L2 norm that each step's whole gradient is clipped to (`clip_grad_norm_`).
        clip_value: the size that each entry of it is clipped to (`clip_grad_value_`).
        schedule: f_k of step k of K, from 0: 1; linear 1 - k / K; cosine (1 + cos(π k / K)) / 2; exponential
            γᵏ; step γ^⌊k / every⌋. As `torch.optim.lr_scheduler` has them, stepped after each step.
        gamma: γ.
        every: steps between two of a step schedule's.
        warmup: steps of a linear warm-up: f_k is (k + 1) / warmup times that before it ends.

    Raises:
        InputError: a number that is out of its range, or both kinds of clipping.
    """

    kind: ClassVar[str]

    weight_decay: float = 0.0
    clip_norm: float | None = None
    clip_value: float | None = None
    schedule: Schedule = "constant"
    gamma: float = 0.1
    every: int = 1
    warmup: int = 0

    def __post_init__(self) -> None:
        _check("weight_decay", self.weight_decay, 0 <= self.weight_decay < math.inf, "at least 0")
        _check("gamma", self.gamma, 0 < self.gamma < math.inf, "above 0")
        _check("every", self.every, self.every >= 1, "at least 1")
        _check("warmup", self.warmup, self.warmup >= 0, "at least 0")
        for name, bound in (("clip_norm", self.clip_norm), ("clip_value", self.clip_value)):
            if bound is not None:
                _check(name, bound, 0 < bound < math.inf, "above 0")
        if self.clip_norm is not None and self.clip_value is not None:
            raise InputError("expected clip_norm or clip_value of a client's optimizer, found both")

    @property
    def name(self) -> str:
        """The text that loads it again."""
        options = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }
        return specification(self.kind, options)

    def rate(self, step: int, steps: int) -> float:
        """Return f_k, the factor of the learning rate at a step from 0 on of a round's."""
        factor = {
            "constant": 1.0,
            "linear": 1 - step / steps,
            "cosine": (1 + math.cos(math.pi * step / steps)) / 2,
            "exponential": self.gamma**step,
            "step": self.gamma ** (step // self.every),
        }[self.schedule]
        return factor * min(1.0, (step + 1) / self.warmup) if self.warmup else factor

    def direction(
        self, step: int, weights: Gradients, gradient: Gradients, state: State
    ) -> tuple[Gradients, State]:
        """Return d_k and the state after it, from the weights before it and the gradient at them."""
        if self.clip_norm is not None:
            gradient = Clip(self.clip_norm).apply(gradient)
        if self.clip_value is not None:
            bound = self.clip_value
            gradient = {name: g.clamp(-bound, bound) for name, g in gradient.items()}
        return self._direction(step, weights, gradient, state)

    @abstractmethod
    def _direction(
        self, step: int, weights: Gradients, gradient: Gradients, state: State
    ) -> tuple[Gradients, State]: ...

    def _decayed(self, weights: Gradients, gradient: Gradients) -> Gradients:
        if not self.weight_decay:
            return gradient
        return {name: g + self.weight_decay * weights[name] for name, g in gradient.items()}

    def cannot_tell(self, steps: int) -> list[str]:  # noqa: ARG002
        """Return what an update of so many steps does not say of the gradients, whoever reads it."""
        said = []
        if self.clip_norm is not None:
            said.append(f"the norm of a step's gradient beyond {self.clip_norm:g}")
        if self.clip_value is not None:
            said.append(f"entries of a step's gradient beyond {self.clip_value:g}")
        return said


@dataclass(frozen=True, kw_only=True)
class Sgd(ClientOptimizer):
    """SGD: v ← m v + g, d = v, or with Nesterov's momentum g + m v (`torch.optim.SGD`).

    Attributes:
        momentum: m, from 0 to below 1.
        nesterov: whether the momentum is Nesterov's.
    """

    kind = "sgd"

    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum < 1:
            raise InputError(f"expected a local momentum from 0 to below 1, found {self.momentum}")
        if self.nesterov and not self.momentum:
            raise InputError("expected a momentum above 0 for nesterov, found 0; give momentum too")

    @property
    def is_plain(self) -> bool:
        """Whether its first step is the gradient itself."""
        return self.name == specification("sgd", {"momentum": self.momentum or None})

    def _direction(
        self,
        step: int,  # noqa: ARG002
        weights: Gradients,
        gradient: Gradients,
        state: State,
    ) -> tuple[Gradients, State]:
        gradient = self._decayed(weights, gradient)
        if not self.momentum:
            return gradient, state
        known = state.get("velocity")
        velocity = gradient if known is None else _sum(self.momentum, known, 1.0, gradient)
        return (_sum(1.0, gradient, self.momentum, velocity) if self.nesterov else velocity), {
            "velocity": velocity
        }

    def cannot_tell(self, steps: int) -> list[str]:
        """Return what an update of so many steps does not say of the gradients."""
        said = super().cannot_tell(steps)
        if steps == 1 and self.nesterov:
            said.append(f"Nesterov's momentum from a learning rate {1 + self.momentum:g} times as large")
        elif steps == 1 and self.momentum:
            said.append("momentum, which does nothing in the first step")
        return said


@dataclass(frozen=True, kw_only=True)
class Adam(ClientOptimizer):
    """Adam (Kingma, Ba, arXiv 1412.6980, algorithm 1): d = m̂ / (√v̂ + ε) (`torch.optim.Adam`).

    Attributes:
        beta1: of the mean m, from 0 to below 1.
        beta2: of the mean square v, likewise.
        eps: ε, above 0.
    """

    kind = "adam"

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, beta in (("beta1", self.beta1), ("beta2", self.beta2)):
            _check(name, beta, 0 <= beta < 1, "from 0 to below 1")
        _check("eps", self.eps, 0 < self.eps < math.inf, "above 0")

    def _direction(
        self, step: int, weights: Gradients, gradient: Gradients, state: State
    ) -> tuple[Gradients, State]:
        return self._moments(step, self._decayed(weights, gradient), state)

    def _moments(self, step: int, g: Gradients, state: State) -> tuple[Gradients, State]:
        zero = {name: torch.zeros_like(part) for name, part in g.items()}
        squares = {name: part.square() for name, part in g.items()}
        mean = _sum(self.beta1, state.get("mean", zero), 1 - self.beta1, g)
        square = _sum(self.beta2, state.get("square", zero), 1 - self.beta2, squares)
        one, two = 1 - self.beta1 ** (step + 1), 1 - self.beta2 ** (step + 1)
        found = {name: m / one / (_root(square[name] / two) + self.eps) for name, m in mean.items()}
        return found, {"mean": mean, "square": square}

    def cannot_tell(self, steps: int) -> list[str]:
        """Return what an update of so many steps does not say of the gradients."""
        said = super().cannot_tell(steps) if self.clip_value is not None else []
        if steps > 1:
            return [*said, "a factor of all gradients alike, such as a loss that is summed, not averaged"]
        return [
            *said,
            f"sizes of the gradient's entries: Adam's first step is their signs, where they are far above "
            f"{self.eps:g}",
        ]


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """AdamW (arXiv 1711.05101, algorithm 2): Adam's d, and λ w more (`torch.optim.AdamW`)."""

    kind = "adamw"

    weight_decay: float = 0.01

    def _direction(
        self, step: int, weights: Gradients, gradient: Gradients, state: State
    ) -> tuple[Gradients, State]:
        found, state = self._moments(step, gradient, state)
        return self._decayed(weights, found), state


CLIENT_OPTIMIZERS: dict[str, type[ClientOptimizer]] = {"sgd": Sgd, "adam": Adam, "adamw": AdamW}
"""By the name that begins their text."""


def load_client_optimizer(text: str) -> tuple[ClientOptimizer, float | None]:
    """Return the optimizer of "adamw:lr=0.001,weight_decay=0.1", and its learning rate, None without one.

    Raises:
        UnknownNameError: an optimizer or an option that is not known.
        InputError: an option's value is of the wrong kind or out of range.
    """
    what = f"client optimizer {text!r}"
    name, *options = [part.strip() for part in text.replace(":", ",", 1).split(",")]
    if name not in CLIENT_OPTIMIZERS:
        raise unknown_name("client optimizer", name, list(CLIENT_OPTIMIZERS))
    rates = [option for option in options if option.partition("=")[0].strip() == "lr"]
    others = [option for option in options if option not in rates]
    rate = read_options(what, ",".join(rates), {"lr": float}).get("lr")
    return build(what, CLIENT_OPTIMIZERS[name], ",".join(others)), rate


def _check(name: str, value: float | int, fits: bool, expected: str) -> None:
    if not fits:
        raise InputError(f"client optimizer: expected {name} {expected}, found {value:g}")


def _sum(a: float, x: Gradients, b: float, y: Gradients) -> Gradients:
    return {name: a * x[name] + b * part for name, part in y.items()}


def _root(square: Tensor) -> Tensor:
    """Return the square root, its derivative at 0 taken as 0: dead units have no slope."""
    positive = square > 0
    return torch.where(positive, square.where(positive, torch.ones_like(square)).sqrt(), 0.0)
