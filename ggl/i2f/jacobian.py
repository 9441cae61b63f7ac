"""How a client's gradient moves with its image: J = ∇_x ∇_θ L, by products alone.

J (d_x, d_θ) is one image's own. For ResNet-18 on 32-pixel images it would hold 3 · 10¹⁰ numbers; a product
with it costs a few passes through the victim.
"""

import copy
import warnings
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jvp, vmap

from ggl.base.errors import InputError
from ggl.gradients import Gradients
from ggl.gradients.chunks import Chunks
from ggl.gradients.examination import examine, prepared, probe_images
from ggl.gradients.sampled import sampled_layers
from ggl.victims.losses import Loss, load_loss, losses_of

__all__ = ["Jacobian", "check_separable", "jacobian_product", "transposed_product"]

CHUNK_NUMBERS = {"cpu": 2**22, "cuda": 2**28}
"""Numbers of directions in θ, one direction an image, that a pass holds at once, by device."""


class Jacobian:
    """Products with the J of every image (n, c, h, w), each image's loss being its own.

    The victim is copied, in its dtype and on its device; directions are brought there. Activations in place
    are replaced: forward differentiation would see what they overwrite.

    Args:
        model: the victim, from images (n, c, h, w) to logits (n, classes).
        images: in [0, 1].
        labels: their classes.
        loss: as of `ggl.GradientOracle`.

    Raises:
        InputError: a victim that mixes or samples, or labels that are not one an image.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Float[Tensor, "n c h w"],
        labels: Int[Tensor, " n"],
        loss: str | Loss = "cross-entropy",
    ) -> None:
        check_separable(model)
        _load_forward_mode()
        if labels.shape != images.shape[:1]:
            raise InputError(
                f"expected one label for each of {len(images)} images, found labels of shape "
                f"{tuple(labels.shape)}"
            )
        self.model, self.loss = _without_in_place(prepared(model)), load_loss(loss)
        self.parameters = {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}
        if not self.parameters:
            raise InputError("the victim has no parameter that requires a gradient: nothing is shared")
        first = next(iter(self.parameters.values()))
        self.device, self.dtype = first.device, first.dtype
        self.images, self.labels = images.to(first), labels.to(first.device)
        channels, height, width = images.shape[1:]
        if examine(self.model, self.loss, probe_images(first, (channels, height, width))).draws:
            raise _random("its forward pass")
        size = CHUNK_NUMBERS.get(first.device.type, CHUNK_NUMBERS["cpu"]) // self.num_parameters
        self.chunks = Chunks(first.device, max(1, size))

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self.images)

    @property
    def num_parameters(self) -> int:
        """The gradient's length, d_θ."""
        return sum(p.numel() for p in self.parameters.values())

    @property
    def num_pixels(self) -> int:
        """An image's length, d_x."""
        return self.images[0].numel()

    def select(self, rows: Int[Tensor, " m"]) -> "Jacobian":
        """Return the Jacobians of some images, in that order, of the same victim; rows may repeat."""
        chosen = copy.copy(self)
        rows = rows.to(self.device)
        chosen.images, chosen.labels = self.images[rows], self.labels[rows]
        return chosen

    def product(self, delta: Gradients) -> Float[Tensor, "n c h w"]:
        """Return J δ, the derivative of ∇_x L as θ moves along δ: forward over reverse.

        Args:
            delta: a direction for every image, by parameter name, (n, *shape) each.

        Raises:
            InputError: a parameter is missing, strange, or of another shape.
        """
        self._check_directions(delta)
        moved = {name: delta[name].to(self.device, self.dtype) for name in self.parameters}

        def call(rows: slice) -> Tensor:
            part = {name: d[rows] for name, d in moved.items()}
            found: Tensor = vmap(self._product)(self.images[rows], self.labels[rows], part)
            return found

        return self._map(call)

    def transposed(self, directions: Float[Tensor, "n c h w"]) -> Gradients:
        """Return Jᵀ b, the derivative of ∇_θ L as x moves along b: (n, *shape) by parameter name."""
        directions = directions.to(self.images)
        self._check_shape(directions)

        def call(rows: slice) -> Tensor:
            moved = vmap(self._transposed)(self.images[rows], self.labels[rows], directions[rows])
            return torch.cat([d.flatten(1) for d in moved.values()], dim=1)

        flat = self._map(call).split([p.numel() for p in self.parameters.values()], dim=1)
        return {
            name: part.unflatten(1, p.shape) if p.dim() else part[:, 0]
            for part, (name, p) in zip(flat, self.parameters.items(), strict=True)
        }

    def normal(self, directions: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Return J Jᵀ b; what lies between, of d_θ numbers an image, is held for one chunk at a time."""
        directions = directions.to(self.images)
        self._check_shape(directions)

        def one(x: Tensor, y: Tensor, b: Tensor) -> Tensor:
            return self._product(x, y, self._transposed(x, y, b))

        def call(rows: slice) -> Tensor:
            found: Tensor = vmap(one)(self.images[rows], self.labels[rows], directions[rows])
            return found

        return self._map(call)

    def _loss(self, parameters: Gradients, x: Tensor, y: Tensor) -> Tensor:
        logits = functional_call(self.model, parameters, (x[None],))
        return losses_of(self.loss, logits, y[None]).mean()

    def _product(self, x: Tensor, y: Tensor, delta: Gradients) -> Tensor:
        found: Tensor = jvp(lambda p: grad(self._loss, argnums=1)(p, x, y), (self.parameters,), (delta,))[1]
        return found

    def _transposed(self, x: Tensor, y: Tensor, b: Tensor) -> Gradients:
        found: Gradients = jvp(lambda image: grad(self._loss)(self.parameters, image, y), (x,), (b,))[1]
        return found

    @torch.no_grad()
    def _map(self, call: Callable[[slice], Tensor]) -> Tensor:
        return self.chunks.map(len(self), 1, call)

    def _check_directions(self, delta: Gradients) -> None:
        wrong = sorted(set(delta) ^ set(self.parameters))
        if wrong:
            raise InputError(
                "expected a direction for each of the victim's parameters and no other, "
                f"found a difference at {wrong[0]!r}"
            )
        for name, p in self.parameters.items():
            if delta[name].shape != (len(self), *p.shape):
                raise InputError(
                    f"expected directions of the shape {(len(self), *p.shape)} for {name!r}, one an image, "
                    f"found {tuple(delta[name].shape)}"
                )

    def _check_shape(self, directions: Tensor) -> None:
        if directions.shape != self.images.shape:
            raise InputError(
                f"expected directions of the images' shape {tuple(self.images.shape)}, "
                f"found {tuple(directions.shape)}"
            )


def jacobian_product(
    model: nn.Module, images: Float[Tensor, "n c h w"], labels: Int[Tensor, " n"], delta: Gradients
) -> Float[Tensor, "n c h w"]:
    """Return J δ of every image; δ has (n, *shape) by parameter name. See `Jacobian.product`."""
    return Jacobian(model, images, labels).product(delta)


def transposed_product(
    model: nn.Module,
    images: Float[Tensor, "n c h w"],
    labels: Int[Tensor, " n"],
    directions: Float[Tensor, "n c h w"],
) -> Gradients:
    """Return Jᵀ b of every image, (n, *shape) by parameter name. See `Jacobian.transposed`."""
    return Jacobian(model, images, labels).transposed(directions)


def check_separable(model: nn.Module) -> None:
    """Refuse a victim whose loss is not a function of one image alone, always the same.

    Raises:
        InputError: it samples, has active dropout, or normalizes by its batch.
    """
    sampled = next(iter(sampled_layers(model)), None)
    if sampled is not None:
        raise _random(f"the layer {sampled!r}")
    for name, module in model.named_modules():
        _check_module(name, module)


def _random(where: str) -> InputError:
    return InputError(
        f"expected a victim whose gradient is a function of its image, found {where} that draws noise on "
        "every pass: the influence function has no Jacobian there; leave it out"
    )


def _check_module(name: str, module: nn.Module) -> None:
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and (
        module.training or module.running_mean is None
    ):
        raise InputError(
            f"expected batch normalization by running statistics, found {name!r} that mixes the images of a "
            "batch: call eval() on the victim, or use one with GroupNorm"
        )
    if isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0:
        raise InputError(
            f"the victim's dropout {name!r} is active, so that its gradient is random; "
            "call eval() on it or set its p to 0"
        )


def _load_forward_mode() -> None:
    """Have torch load its forward derivatives, which on the first use warns of a part of torch itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        with forward_ad.dual_level():
            forward_ad.make_dual(torch.zeros(1), torch.zeros(1))


def _without_in_place(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    for module in model.modules():
        if getattr(module, "inplace", False) is True:
            setattr(module, "inplace", False)  # noqa: B010
    return model
