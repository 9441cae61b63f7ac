"""How labels enter a plain generator: as vectors that multiply its latents or stand beside them."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ggl.generators.state_dicts.layers import Layers, question

__all__ = ["Labels", "find_labels"]


class Labels(nn.Module):
    """The vectors that labels stand for, and where they go.

    Args:
        table: a vector (classes, e) for each label; None without labels.
        join: "times" the latent, "first" (before it) or "last".
        latent_dim: of the latent alone.
    """

    table: Tensor | None

    def __init__(self, table: Tensor | None, join: str | None, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("table", table)
        self.join, self.latent_dim = join, latent_dim
        self.num_classes = None if table is None else len(table)

    def joined(self, z: Float[Tensor, "n d"], labels: Int[Tensor, " n"] | None) -> Float[Tensor, "n inputs"]:
        """Return what the first layer reads: the latents alone where there are no classes."""
        if self.table is None or labels is None:
            return z
        vectors = self.table[labels]
        if self.join == "times":
            return z * vectors
        return torch.cat((vectors, z) if self.join == "first" else (z, vectors), dim=1)


def find_labels(layers: Layers, inputs: int, join: str | None, classes: int | None) -> Labels:
    """Return how labels enter.

    Args:
        layers: whose table of labels, if there is one, is taken; else, with `classes`, labels are one-hot.
        inputs: of the first layer: d for "times", d + e for "first" and "last".
        join: None where it was not said.
        classes: how many one-hot labels the first layer reads; None for a table, or no labels.

    Raises:
        InputError: how they join is open, or does not fit.
    """
    path = layers.path
    if layers.embedding is None and classes is None:
        if join is not None:
            raise question(path, "join=: expected a table of labels in the file, or classes=, found neither")
        return Labels(None, None, inputs)
    if layers.embedding is not None and classes is not None:
        raise question(path, f"classes=: the file's table of labels, {layers.embedding.name}, says how many")
    table = torch.eye(classes or 0) if layers.embedding is None else layers.embedding.weight.float()
    width = table.shape[1]
    rest = inputs - width
    if join is None and rest == 0 and layers.embedding is not None:
        join = "times"
    if join is None and rest > 0:
        raise question(
            path,
            f"the first layer takes {inputs} values, a label has {width} of them: say whether these stand "
            f"before the {rest} latents or after them, join=first or join=last",
        )
    if rest != 0 if join == "times" else rest <= 0:
        raise question(path, f"a label's {width} values do not fit a first layer that takes {inputs}")
    return Labels(table, join, inputs if join == "times" else rest)
