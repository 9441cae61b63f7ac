"""Where an attacker has the labels of a batch from: told, read off the gradient, or searched."""

from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ggl.attacks.label_inference import DUMMIES, Head, assign_labels, find_head, infer_labels
from ggl.attacks.label_response import Response, last_linear, respond
from ggl.attacks.label_rules import KNOWN, LabelRule, SearchedLabels, SoftLabels
from ggl.base.errors import InputError
from ggl.base.random import stream
from ggl.base.registry import unknown_name
from ggl.generators import Prior
from ggl.gradients import GradientOracle, Gradients
from ggl.victims.losses import loss_name

__all__ = [
    "LABEL_RULES",
    "check_label_rule",
    "head_layer",
    "infer_client_labels",
    "labels_to_start_from",
    "load_label_rule",
]

LABEL_RULES = ("known", "inferred", "searched", "soft")
"""Where an attacker has a batch's labels from: given, read off the shared gradient beforehand, or searched
with the latents, as classes or (DLG) as distributions."""

NOISE_IMAGES = 8


def check_label_rule(name: str) -> None:
    """Raise `UnknownNameError` unless the rule is one of `LABEL_RULES`."""
    if name not in LABEL_RULES:
        raise unknown_name("label rule", name, list(LABEL_RULES))


def infer_client_labels(
    oracle: GradientOracle, shared: Gradients, batch_size: int, prior: Prior
) -> Int[Tensor, " b"] | None:
    """Return the labels that a client's gradient tells, None where the victim's last layer tells nothing.

    Of a batch they are read with the help of the victim's answers to samples of the prior. Where its loss and
    what follows its last layer are no cross-entropy of a softmax, the head's response to labels is measured:
    a single image's label is that of the least row, if every dummy's was, and other labels are counted by it.

    Raises:
        InputError: a batch whose loss is no mean of its images', such as with class weights, or a head that
            does not answer to labels.
    """
    summed = 1.0 if oracle.local is None else oracle.local.gradients
    layer = head_layer(oracle, prior.image_shape)
    head = None if layer is None else find_head(shared, summed, layer)
    if head is None:
        return None
    single = batch_size == 1
    response = _response(oracle, head, None if single else prior, prior.image_shape)
    if not (single or response.is_mean):
        raise InputError(
            f"the labels of a batch cannot be read: its loss {loss_name(oracle.loss)!r} is no mean of its "
            "images' losses; give the labels, or have them searched"
        )
    if response.is_cross_entropy:
        dummies = None if single else _dummies(prior, oracle.device)
        return infer_labels(
            shared, batch_size, model=oracle.model, dummies=dummies, layer=layer, summed=summed
        )
    if single and response.is_least:
        return _least(head.evidence)
    response = _response(oracle, head, prior, prior.image_shape)
    return assign_labels(response.counts(head.evidence, batch_size), None, batch_size)


def _least(evidence: Tensor) -> Int[Tensor, " 1"]:
    """Return the label of one image: the least row's; of one output, 1 where it is below 0."""
    return (evidence < 0).long() if len(evidence) == 1 else evidence.argmin(keepdim=True)


_LAYERS: WeakKeyDictionary[GradientOracle, str | None] = WeakKeyDictionary()


def head_layer(oracle: GradientOracle, image_shape: tuple[int, int, int]) -> str | None:
    """Return the victim's last linear layer, in the order in which they run."""
    if oracle not in _LAYERS:
        _LAYERS[oracle] = last_linear(oracle.model, _noise(image_shape))
    return _LAYERS[oracle]


def _noise(image_shape: tuple[int, int, int]) -> Float[Tensor, "m c h w"]:
    return torch.rand((NOISE_IMAGES, *image_shape), generator=stream(0, "label noise images"))


_RESPONSES: WeakKeyDictionary[GradientOracle, dict[object, Response]] = WeakKeyDictionary()
"""How a victim's head answers to labels: the same for every client."""


def _response(
    oracle: GradientOracle, head: Head, prior: Prior | None, image_shape: tuple[int, int, int]
) -> Response:
    """Return the response on samples of the prior, or on noise, which is enough to see what kind it is."""
    known = _RESPONSES.setdefault(oracle, {})
    key = (head.layer, head.bias is None, prior)
    if key not in known:
        dummies = _noise(image_shape) if prior is None else _dummies(prior, oracle.device)
        known[key] = respond(oracle.model, oracle.loss, head.layer, dummies, weighed=head.bias is None)
    return known[key]


_DUMMIES: WeakKeyDictionary[Prior, Tensor] = WeakKeyDictionary()
"""A prior's samples: the same for every client, and slow to decode where the prior is large."""


@torch.no_grad()
def _dummies(prior: Prior, device: torch.device) -> Float[Tensor, "m c h w"]:
    """Return samples of the prior, their classes drawn uniformly."""
    if prior not in _DUMMIES:
        random = stream(0, "label dummies")
        z = prior.sample(DUMMIES, random).to(device)
        labels = torch.randint(prior.num_classes or 1, (DUMMIES,), generator=random).to(device)
        _DUMMIES[prior] = prior.to(device).decode(z, labels).cpu()
    return _DUMMIES[prior].to(device)


def labels_to_start_from(
    name: str,
    labels: Int[Tensor, " b"] | int,
    shared: Gradients,
    rule: str,
    oracle: GradientOracle,
    prior: Prior,
) -> Int[Tensor, " b"]:
    """Return the labels that a search is given: zeros where it looks for them itself.

    Args:
        name: of the target.
        labels: (b,) of its batch, or b alone where they are not known.
        shared: its gradient.
        rule: of `LABEL_RULES`.
        oracle: of the victim.
        prior: the attacker's.

    Raises:
        InputError: labels that are not given, or cannot be read off the gradient.
    """
    if rule == "known" and isinstance(labels, int):
        raise InputError(
            f"the labels of {name!r} are not given: expected the label rule inferred or searched"
        )
    size = labels if isinstance(labels, int) else len(labels)
    if rule == "inferred":
        found = infer_client_labels(oracle, shared, size, prior)
        if found is None:
            raise InputError(
                f"no label can be read off {name!r}: expected a victim with a linear last layer; "
                "give the labels, or have them searched"
            )
        return found
    if isinstance(labels, int) or rule != "known":
        return torch.zeros(size, dtype=torch.int64)
    return labels


def load_label_rule(name: str, oracle: GradientOracle, prior: Prior) -> LabelRule:
    """Return what a search does with labels under a rule of `LABEL_RULES`."""
    check_label_rule(name)
    if name in ("known", "inferred"):
        return KNOWN
    classes = oracle.count_classes(prior.image_shape)
    if name == "soft":
        return SoftLabels(classes)
    return SearchedLabels(min(classes, prior.num_classes or classes))
