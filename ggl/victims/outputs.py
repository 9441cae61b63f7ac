"""What of a victim's outputs are its logits: victims may return tuples, dicts and objects of several."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ggl.base.errors import InputError

__all__ = ["bare_module", "with_output"]

LOGITS = "logits"
"""What is taken of several outputs where nothing else is asked for."""


class Logits:
    """A forward hook that hands on the logits (n, k) of what a victim returns.

    Args:
        output: the name or the number of the output; None takes "logits", or the only tensor.
    """

    def __init__(self, output: str | None) -> None:
        self.output = output

    def __call__(self, _: nn.Module, arguments: tuple[Any, ...], returned: object) -> Tensor:
        """Return the logits; an output without a dimension of classes, of one logit, gets one.

        Raises:
            InputError: it cannot be told which output they are, or there is none of the name.
        """
        logits = self._chosen(returned)
        images = next((x for x in arguments if isinstance(x, Tensor)), None)
        if logits.dim() < 2 and images is not None:
            return logits.reshape(len(images), -1)
        return logits

    def _chosen(self, returned: object) -> Tensor:
        if isinstance(returned, Tensor):
            if self.output is not None:
                raise InputError(f"the victim returns a tensor and no {self.output!r}: leave the output out")
            return returned
        named = {name: x for name, x in _named(returned).items() if isinstance(x, Tensor)}
        if self.output is not None:
            wanted = self.output
        elif LOGITS in named:
            wanted = LOGITS
        else:
            wanted = next(iter(named)) if len(named) == 1 else ""
        if wanted not in named:
            raise InputError(_question(returned, named, self.output))
        return named[wanted]


def with_output(model: nn.Module, output: str | None = None) -> nn.Module:
    """Have a victim return the logits alone; changed in place, and returned.

    Of a tuple, a list, a dict or an object with fields, such as a `ModelOutput`, the output is taken that
    is named, by its key, field or number; by default "logits", or the only tensor there is.

    Args:
        model: the victim.
        output: which of its outputs.
    """
    there = any(isinstance(hook, Logits) for hook in model._forward_hooks.values())
    if output is not None or not there:
        model.register_forward_hook(Logits(output))
    return model


def bare_module(found: object, what: str) -> nn.Module:
    """Return the module that trains behind the wrappers of `torch.compile` and data-parallel training.

    Raises:
        InputError: it is no module, is TorchScript, whose layers cannot be looked into, or has parameters
            of which nobody knows the shapes yet.
    """
    while isinstance(found, nn.parallel.DistributedDataParallel | nn.DataParallel):
        found = found.module
    found = getattr(found, "_orig_mod", found) if type(found).__name__ == "OptimizedModule" else found
    if not isinstance(found, nn.Module):
        raise InputError(f"{what}: expected an nn.Module, found {type(found).__name__}")
    for name, module in found.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise InputError(
                f"{what}: expected modules of Python, found TorchScript{f' in {name!r}' if name else ''}, "
                "whose layers cannot be looked into; hand over the network before torch.jit.script or trace"
            )
    return found


def _named(returned: object) -> Mapping[str, object]:
    """Return what a victim returned, by name and by number."""
    if isinstance(returned, Mapping):
        return {str(key): value for key, value in returned.items()}
    if isinstance(returned, tuple | list):
        names = getattr(returned, "_fields", None) or map(str, range(len(returned)))
        return dict(zip(names, returned, strict=True))
    if is_dataclass(returned):
        return {field.name: getattr(returned, field.name) for field in fields(returned)}
    return vars(returned) if hasattr(returned, "__dict__") else {}


def _question(returned: object, named: Mapping[str, Tensor], output: str | None) -> str:
    tensors = ", ".join(f"{name} {tuple(x.shape)}" for name, x in named.items()) or "no tensor"
    found = f"{type(returned).__name__} of {tensors}"
    if output is None:
        return (
            f"expected the victim to return logits (n, classes), found a {found}; say which are the logits: "
            "output= by name or number, --victim-output on the command line"
        )
    return f"the victim returns no tensor {output!r}, but a {found}"
