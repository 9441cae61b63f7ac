"""Whether files are what they are said to be: weights before, weights after, or their difference."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor, nn

from ggl.base.errors import InputError, WeightsError
from ggl.base.name_matching import COUNTER
from ggl.base.network_weights import FileWeights
from ggl.gradients.view import global_norm

__all__ = ["check_direction", "check_is_difference", "check_roles", "head_bias"]

HALF = 0.5
"""Of the weights before, along themselves: training keeps about all of it, a difference next to none."""

EXACT = 1e-4
"""Of the sum of a bias's absolute entries: what float32 leaves of a sum of zero."""

SIGNIFICANT = 1e-3
"""Of the largest entry of the head's bias: smaller ones may be rounding or weight decay."""


def check_roles(
    before: str | Path, after: str | Path, old: FileWeights, new: FileWeights, trained: Sequence[str]
) -> None:
    """Refuse a difference of weights as the weights after, and files whose counts of batches run backward.

    Args:
        before: the file of `old`, for messages.
        after: the file of `new`.
        old: the weights before local training.
        new: the weights after it.
        trained: the names of the parameters that are trained.

    Raises:
        WeightsError: it is so.
    """
    values = [{name: read.tensors[name].double() for name in trained} for read in (old, new)]
    if _is_small_difference(*values) or _sums_to_zero(*values):
        raise WeightsError(
            f"{after}: expected the weights after local training, found values with next to nothing of those "
            f"in {before}: a difference of weights, or another model's; give a difference with "
            "--update-difference and the weights before it with --victim-weights (in Python, "
            "captured_difference)"
        )
    for name in sorted(old.found & new.found):
        if name.endswith(COUNTER) and new.tensors[name] < old.tensors[name]:
            raise WeightsError(
                f"{after}: {name!r} runs backward, from {int(old.tensors[name])} to "
                f"{int(new.tensors[name])}: the files are in the wrong order; give the weights before local "
                "training first (or leave the counts out of the files, if the client set them back)"
            )


def check_is_difference(
    path: str | Path, victim: nn.Module, difference: Mapping[str, Tensor], trained: Sequence[str]
) -> None:
    """Raise `WeightsError` where what is given as a difference of weights is a victim's weights."""
    state = victim.state_dict()
    if _kept(*({name: tensors[name].double() for name in trained} for tensors in (state, difference))) > HALF:
        raise WeightsError(
            f"{path}: expected the weights after local training minus those before, found weights; give both "
            "files with --update (in Python, captured_update)"
        )


def _is_small_difference(old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> bool:
    """Say whether the new values are smaller than the old ones and hold next to nothing of them."""
    return _kept(old, new) < HALF and float(global_norm(new)) < float(global_norm(old))


def _kept(old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> float:
    """Return how much of the old values the new ones keep: <new, old> / <old, old>; 1 for zeros."""
    whole = sum(float(tensor.square().sum()) for tensor in old.values())
    return sum(float((old[name] * new[name]).sum()) for name in old) / whole if whole else 1.0


def _sums_to_zero(old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> bool:
    """Say whether the head's new bias sums to zero and the old one does not.

    Steps on cross-entropy leave the sum of that bias as it is, whatever their size: its gradient is a mean of
    softmax - target, whose entries sum to zero.
    """
    name = head_bias(new)
    if name is None:
        return False
    tolerance = EXACT * float(new[name].abs().sum())
    return abs(float(new[name].sum())) < tolerance < abs(float(old[name].sum()))


def check_direction(
    gradients: Mapping[str, Tensor],
    labels: Int[Tensor, " b"] | None = None,
    *,
    batch_size: int = 1,
    is_difference: bool = False,
) -> None:
    """Refuse an update that lets the head's bias fall at its images' classes and rise at all others.

    The gradient of cross-entropy for the head's bias is the mean of softmax - target: below zero at most at
    the classes of the batch, above zero at all others; so is the sum over local steps, with momentum too.
    What fits the batch with its sign reversed and not as it stands is the reverse of an update. Where both
    fit, as in a batch of half the classes, nothing is said; nor of a head without bias. It does not hold
    for other losses, label smoothing among them, nor for updates with noise added: do not call it for those.

    Args:
        gradients: the update in units of gradients, (before - after) / learning rate.
        labels: of the client's images, where they are known.
        batch_size: how many images there are, where they are not.
        is_difference: whether it was read from a difference of weights; the advice depends on it.

    Raises:
        InputError: it is reversed.
    """
    name = head_bias(gradients)
    if name is None:
        return
    g = gradients[name].double()
    clear = g.abs() > SIGNIFICANT * g.abs().max()
    below, above = (set(torch.where(clear & side)[0].tolist()) for side in (g < 0, g > 0))
    if _fits(below, labels, batch_size) or not _fits(above, labels, batch_size):
        return
    advice = (
        "the difference is before - after: give FILE,sign=-1 (in Python, sign=-1)"
        if is_difference
        else "the files are in the wrong order: give the weights before local training first"
    )
    raise InputError(
        f"{name!r}: expected it to rise at the images' classes alone, as cross-entropy makes it, found that "
        f"it falls at {_shown(above)} and rises elsewhere; {advice}"
    )


def _fits(classes: set[int], labels: Tensor | None, batch_size: int) -> bool:
    return len(classes) <= batch_size if labels is None else classes <= set(labels.tolist())


def _shown(classes: set[int]) -> str:
    first = sorted(classes)[:4]
    return ", ".join(map(str, first)) + (" and others" if len(classes) > len(first) else "")


def head_bias(gradients: Mapping[str, Tensor]) -> str | None:
    """Return the bias beside the last matrix among the parameters, the linear head; None if it has none."""
    weight = next((name for name in reversed(list(gradients)) if gradients[name].dim() == 2), None)
    bias = "" if weight is None else weight.removesuffix("weight") + "bias"
    return bias if bias in gradients else None
