"""What a shared gradient says of its labels, of cross-entropy; `ggl.attacks.label_response` is of any loss.

A batch's gradient of the last bias is b_i = p̄_i - n_i/B, softmax mean less label share,
and the sum of a row of the last weight's is g_i = mean((p_i - y_i) o), o an image's features' sum. Features
are non-negative behind a ReLU or a sigmoid; then a negative row is one of a class that is there.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import scipy
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

from ggl.attacks.label_response import HeadPass, pass_head
from ggl.base.errors import GradientError, InputError
from ggl.base.random import stream
from ggl.base.registry import unknown_name
from ggl.gradients import Gradients

__all__ = [
    "DUMMIES",
    "LABEL_METHODS",
    "Head",
    "assign_labels",
    "chance_accuracy",
    "find_head",
    "infer_label",
    "infer_labels",
    "label_accuracy",
]

LABEL_METHODS: Mapping[str, str] = {
    "auto": "iDLG for one image, wainakh for more",
    "analytic": "negative rows of the last bias's gradient, their mean impact; needs no model",
    "wainakh": "LLG, of the last weight's row sums; with a model LLG*: impact and offsets of dummy images",
    "geng": "counts B (p̄ - g/Ō) of the last weight's row sums; needs a model",
    "geng-bias": "counts B (p̄ - b) of the last bias's gradient, exact where p̄ is; needs a model",
}
"""What `infer_labels` can do, a line each."""

DUMMIES = 64
"""Random images on which a model's posteriors and features are averaged, if the caller gives none."""

Counts = Float64[Tensor, " classes"]


@dataclass(frozen=True)
class Head:
    """The last layer's gradient, of the mean of all steps: row sums of its weight, and its bias, if any."""

    layer: str
    rows: Counts
    bias: Counts | None

    @property
    def evidence(self) -> Counts:
        """What one image's label is read off."""
        return self.rows if self.bias is None else self.bias


@dataclass(frozen=True)
class _Typical:
    """What a model makes of dummy images, on average.

    Attributes:
        posterior: p̄, the softmax.
        features: Ō, the sum of what the last layer reads.
        offsets: s, the mean of softmax times features' sum.
    """

    posterior: Counts
    features: float
    offsets: Counts


def infer_label(shared: Gradients) -> int | None:
    """Return the label of a single image: the most negative row of the last layer's gradient.

    iDLG (arXiv 2001.02610, eq. 3): of cross-entropy, the bias gradient is softmax - one-hot, negative at
    the label alone; without a bias the rows of the weight gradient are summed. The last layer is
    the last matrix among the parameters; without one nothing is read, and None returned.
    """
    head = find_head(shared)
    return None if head is None else int(head.evidence.argmin())


def infer_labels(
    shared: Gradients,
    batch_size: int,
    method: str = "auto",
    *,
    model: nn.Module | None = None,
    image_shape: tuple[int, int, int] | None = None,
    dummies: Float[Tensor, "m c h w"] | None = None,
    layer: str | None = None,
    summed: float = 1.0,
    seed: int = 0,
) -> Int[Tensor, " b"] | None:
    """Return the labels (b,) of a batch, ascending, a label as often as it is found; None without a matrix.

    The loss is the cross-entropy, and nothing but a softmax follows the last layer.

    Every method estimates how often each class is there, as a real number. Classes that must be there
    get one label each, those of the largest estimates if they are too many; then the class of which most is
    missing gets one, until there are `batch_size` (ties: the lower class). They differ in the estimates:

    - "analytic": b_i / m, m = Σ⁻b / B over the negative b_i, whose classes must be there; of row sums
      where there is no bias. Where nothing is negative, m = -Σ|b| / B.
    - "wainakh", no model: LLG (Wainakh et al., PoPETs 2022, arXiv 2105.09369), the same of row sums with
      m = (1 + 1/n) Σ⁻g / B, n classes. With a model LLG*: (g_i - s_i) / m, m and the offsets s being
      those of dummy images under every label. In closed form s = mean(p o) and m = -(1 - 1/n²) Ō / B,
      since the rows of other classes do not depend on the label and p sums to 1.
    - "geng": B (p̄_i - g_i / Ō) (Geng et al., arXiv 2110.09074, label restoration), p̄ and Ō the means of
      the softmax and of the features' sum on dummy images; no class must be there.
    - "geng-bias": B (p̄_i - b_i), which needs no Ō. Exact if p̄ is the batch's own.

    Args:
        shared: a gradient of a mean loss, or a FedAvg update as a sum of gradients.
        batch_size: B, labels to be found: of all images, where local steps take different ones.
        method: of `LABEL_METHODS`.
        model: the victim that clients train, as a defense wrapped it, in the mode that clients have.
        image_shape: (c, h, w) of its images, for random dummies: uniform in [0, 1].
        dummies: images of the attacker's own, such as a prior's samples, to be taken instead.
        layer: the last linear layer; by default that of the last matrix among the parameters.
        summed: how many gradients `shared` is the sum of: a client's local steps, or
            `LocalTraining.gradients` where it has momentum.
        seed: of random dummies, and of what a sampled victim or dropout draws.

    Raises:
        UnknownNameError: an unknown method.
        InputError: a size below 1, or a method without what it needs.
        GradientError: the gradient is not finite.
    """
    _check(shared, batch_size, method, summed)
    head = find_head(shared, summed, layer)
    if head is None:
        return None
    if method == "auto":
        method = _best(batch_size)
    if method == "analytic":
        return _from_negatives(head.evidence, batch_size, 1.0)
    if model is None:
        if method == "wainakh":
            return _from_negatives(head.rows, batch_size, 1 + 1 / len(head.rows))
        raise InputError(f"label method {method!r} needs the model: give model=, or take 'wainakh'")
    images = _random_images(image_shape, seed) if dummies is None else dummies
    typical = _typical(pass_head(model, head.layer, images, seed))
    present = head.rows < 0 if method == "wainakh" else None
    return assign_labels(_estimates(method, head, batch_size, typical), present, batch_size)


def label_accuracy(found: Int[Tensor, " m"], true: Int[Tensor, " b"]) -> float:
    """Return the share of labels that are found, in [0, 1]: of the multisets' intersection in the batch.

    It is 1 where every class's count is exact, and nowhere else.

    Raises:
        InputError: no label, or another number of them.
    """
    if len(found) != len(true) or len(true) == 0:
        raise InputError(f"expected as many labels as there are images, found {len(found)} for {len(true)}")
    classes = int(torch.cat([found.cpu(), true.cpu()]).max()) + 1
    counts = [torch.bincount(labels.cpu(), minlength=classes) for labels in (found, true)]
    return int(torch.minimum(*counts).sum()) / len(true)


def chance_accuracy(batch_size: int, num_classes: int) -> float:
    """Return the expected `label_accuracy` of guessing, labels and guesses drawn uniformly.

    A class is there X ~ Binomial(B, 1/n) times, and guessed as often: (n/B) E min(X, X') is
    (n/B) Σ_t P(X ≥ t)².

    Raises:
        InputError: no image or no class.
    """
    if batch_size < 1 or num_classes < 1:
        raise InputError(f"expected at least 1 image and 1 class, found {batch_size} and {num_classes}")
    tails = scipy.stats.binom.sf(range(batch_size), batch_size, 1 / num_classes)
    return float(num_classes / batch_size * (tails**2).sum())


def find_head(shared: Gradients, summed: float = 1.0, layer: str | None = None) -> Head | None:
    """Return a linear layer's gradient, divided by `summed`; None where it is not shared.

    By default it is the layer of the last matrix among the parameters.
    """
    matrices = [name for name, g in shared.items() if g.dim() == 2]
    if layer is not None:
        matrices = [name for name in matrices if name == (f"{layer}.weight" if layer else "weight")]
    if not matrices:
        return None
    weight = matrices[-1]
    layer = weight.removesuffix("weight")
    bias = shared.get(f"{layer}bias")
    rows = shared[weight].detach().cpu().double().sum(1) / summed
    return Head(
        layer.removesuffix("."), rows, None if bias is None else bias.detach().cpu().double() / summed
    )


def _check(shared: Gradients, batch_size: int, method: str, summed: float) -> None:
    if method not in LABEL_METHODS:
        raise unknown_name("label method", method, list(LABEL_METHODS))
    for name, value in (("batch_size", batch_size), ("summed", summed)):
        if value < 1:
            raise InputError(f"expected {name} to be at least 1, found {value}")
    for name, gradient in shared.items():
        if not torch.isfinite(gradient).all():
            raise GradientError(
                f"expected a finite shared gradient, found NaN or infinity in {name!r}: labels cannot be read"
            )


def _best(batch_size: int) -> str:
    """Return what "auto" is; of one image the analytic label is iDLG's."""
    return "analytic" if batch_size == 1 else "wainakh"


def _from_negatives(evidence: Counts, batch_size: int, factor: float) -> Int[Tensor, " b"]:
    negative = evidence < 0
    total = evidence[negative].sum() if negative.any() else -evidence.abs().sum()
    # A gradient of zeros says nothing: any impact will do.
    impact = torch.where(total == 0, -1.0, factor * total / batch_size)
    return assign_labels(evidence / impact, negative, batch_size)


def _estimates(method: str, head: Head, batch_size: int, typical: _Typical) -> Counts:
    """Return how often each class is there, by a method that knows the model."""
    if method == "wainakh":
        impact = -(1 - 1 / len(head.rows) ** 2) * _nonzero(typical) / batch_size
        return (head.rows - typical.offsets) / impact
    if method == "geng":
        return batch_size * (typical.posterior - head.rows / _nonzero(typical))
    if head.bias is None:
        raise InputError("label method 'geng-bias' needs a last layer with a bias: take 'geng'")
    return batch_size * (typical.posterior - head.bias)


def assign_labels(counts: Counts, present: Tensor | None, batch_size: int) -> Int[Tensor, " b"]:
    """Return the labels: those present once, then what is missing most."""
    missing = counts.clone()
    labels: list[int] = []
    if present is not None:
        order = counts.argsort(descending=True, stable=True)
        labels = order[present[order]][:batch_size].tolist()
        missing[labels] -= 1
    while len(labels) < batch_size:
        labels.append(int(missing.argmax()))
        missing[labels[-1]] -= 1
    return torch.tensor(sorted(labels))


def _random_images(image_shape: tuple[int, int, int] | None, seed: int) -> Float[Tensor, "m c h w"]:
    if image_shape is None:
        raise InputError("expected image_shape=(c, h, w) for random dummy images, or dummies= of your own")
    return torch.rand((DUMMIES, *image_shape), generator=stream(seed, "label dummies"))


def _typical(head: HeadPass) -> _Typical:
    """Return the means over dummy images."""
    posteriors = head.logits.detach().double().softmax(1).cpu()
    features = head.inputs.double().sum(1, keepdim=True).cpu()
    return _Typical(posteriors.mean(0), float(features.mean()), (posteriors * features).mean(0))


def _nonzero(typical: _Typical) -> float:
    if typical.features == 0:
        raise InputError(
            "expected features of the model's last layer that are not all zero on the dummy images; "
            "take label method 'geng-bias', or other dummies"
        )
    return typical.features
