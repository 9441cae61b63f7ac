"""Deep Gradient Compression: the largest coordinates are sent, the others wait for later rounds."""

import math

import torch
from torch import Tensor, nn

from ggl.base.errors import InputError
from ggl.defenses.base import Defense, number_text
from ggl.defenses.client import Client
from ggl.defenses.pruning import mask_of_zeros
from ggl.gradients import Gradients, View

__all__ = ["TopK"]


class TopK(Defense):
    """Sends each parameter's largest coordinates and keeps the rest for later rounds (arXiv 1712.01887).

    With momentum correction and momentum factor masking (sections 3.2 and 3.3), per parameter:
    u ← m·u + g; v ← v + u; the k = ⌈keep · size⌉ coordinates of largest |v| are sent, ties broken by
    position, and set to zero in both u and v. Of the first round that is the plain top k of g.

    Unlike in the authors' code, k is exact and not of a sampled threshold, biases are treated as weights
    are, and `keep` has no warm-up. Local gradient clipping is a defense of its own: "clip:1+top-k:0.01".

    The attacker reads the mask off the zeros. From the second round on, the residuals of earlier rounds
    are mixed into what is sent; the attacker does not model them.

    Args:
        keep: the share of each parameter's coordinates that is sent, above 0 and at most 1.
        momentum: m, from 0 to below 1.
    """

    def __init__(self, keep: float, *, momentum: float = 0.9) -> None:
        if not 0 < keep <= 1:
            raise InputError(f"top-k: expected a share to keep above 0 and at most 1, found {keep:g}")
        if not 0 <= momentum < 1:
            raise InputError(f"top-k: expected a momentum from 0 to below 1, found {momentum:g}")
        self.keep, self.momentum = keep, momentum
        self.name = f"top-k:{number_text(keep)},momentum={number_text(momentum)}"

    def protect(self, gradients: Gradients, generator: torch.Generator) -> Gradients:
        """Return what is sent in a first round, when nothing has been kept yet."""
        return {name: torch.where(self._largest(g), g, 0.0) for name, g in gradients.items()}

    def share(self, client: Client, generator: torch.Generator) -> Gradients:
        """Return what is sent in this round; what is not is kept in the client's memory."""
        gradients = client.gradient()
        velocity = self._added(client, "velocity", gradients, self.momentum)
        waiting = self._added(client, "residual", velocity, 1.0)
        sent = {name: self._largest(v) for name, v in waiting.items()}
        for key, buffer in ("velocity", velocity), ("residual", waiting):
            client.memory[self._key(key)] = {n: b.masked_fill(sent[n], 0.0) for n, b in buffer.items()}
        return {name: torch.where(sent[name], v, 0.0) for name, v in waiting.items()}

    def adapt(self, observed: Gradients, attacker: str, model: nn.Module | None) -> View:
        return View(observed, mask_of_zeros(observed))

    def _key(self, buffer: str) -> str:
        return f"{self.name} {buffer}"

    def _added(self, client: Client, buffer: str, news: Gradients, factor: float) -> Gradients:
        """Return factor · buffer + news; a buffer is empty at first."""
        kept = client.memory.get(self._key(buffer))
        return news if kept is None else {name: factor * kept[name] + g for name, g in news.items()}

    def _largest(self, values: Tensor) -> Tensor:
        """Return where the values to send are, of the values' shape."""
        # The margin mends shares that floats can't write: 0.07 · 100 is above 7.
        count = max(1, math.ceil(self.keep * values.numel() - 1e-9))
        order = values.flatten().abs().argsort(stable=True, descending=True)
        places = torch.zeros(values.numel(), dtype=torch.bool, device=values.device)
        return places.index_fill(0, order[:count], value=True).view(values.shape)
