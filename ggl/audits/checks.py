"""What an audit refuses before anything is attacked."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ggl.attacks.analytic import find_first_linear
from ggl.attacks.head import find_head_layer
from ggl.attacks.label_sources import labels_to_start_from, load_label_rule
from ggl.attacks.search import check_budget
from ggl.attacks.strategy_choice import trial_strategy
from ggl.attacks.strategy_options import read_options
from ggl.attacks.tuning import weights_of
from ggl.audits.attackers import ANALYTIC
from ggl.audits.setting import AuditSetting
from ggl.base.errors import InputError
from ggl.defenses import Defense
from ggl.generators import Prior
from ggl.gradients.oracle import check_gradient
from ggl.gradients.residuals import check_sum_of_squares
from ggl.measures.metrics import check_window

__all__ = ["check_defenses", "check_images", "check_strategy"]


def check_images(images: Tensor, labels: Tensor, prior: Prior, batch_size: int) -> None:
    """Raise `InputError` for private images that do not fit the prior, their labels or whole batches."""
    if tuple(images.shape[1:]) != tuple(prior.image_shape):
        raise InputError(
            f"expected images of the shape that prior {prior.name} gives, {tuple(prior.image_shape)}; "
            f"found {tuple(images.shape[1:])}"
        )
    check_window(images)
    if len(images) == 0 or labels.shape != images.shape[:1]:
        raise InputError(f"expected one label for each of {len(images)} images, found {tuple(labels.shape)}")
    if batch_size < 1 or len(images) % batch_size:
        raise InputError(
            f"expected whole batches of {batch_size}, found {len(images)} images; give a multiple of it"
        )
    if not (torch.isfinite(images).all() and images.min() >= 0 and images.max() <= 1):
        raise InputError("expected images in [0, 1]; divide by 255 first?")
    prior.check_labels(labels)


def check_strategy(audit: AuditSetting, strategy: str) -> None:
    """Raise `InputError` for an unknown strategy, or a budget below its first generation."""
    settings, batch = audit.searching(strategy), audit.clients.batch_size
    labels = load_label_rule(settings.label_rule, audit.oracle, settings.prior)
    options = read_options(settings.strategy)
    if options.rate is not None:
        weights_of(settings.prior)
    if options.is_head:
        find_head_layer(audit.oracle, settings.prior.image_shape)
    trial = trial_strategy(settings, batch, labels.size)
    check_budget(options.own(settings.budget), trial.batch_size)
    if trial.needs_residuals:
        check_sum_of_squares(settings.distance)


def check_defenses(audit: AuditSetting, defenses: Sequence[Defense], attackers: Sequence[str]) -> None:
    """Refuse attackers who cannot work under a defense, and gradients that cannot be attacked.

    Raises:
        InputError: an analytic attacker without a first linear layer, or labels that cannot be read.
        GradientError: a private image's gradient is zero or not finite.
    """
    for defense in defenses:
        oracle = audit.wrapped(defense)
        if ANALYTIC in attackers and find_first_linear(oracle.model, audit.attack.prior.image_shape) is None:
            raise InputError(
                "expected a victim whose first layer is linear with a bias, such as mlp, for the analytic "
                f"attacker; {type(audit.victim).__name__} has none: leave that attacker out"
            )
        if ANALYTIC in attackers and not audit.solvable:
            raise InputError(
                "the analytic attacker solves the gradient of one image: expected batches of 1 and one local "
                "step; leave that attacker out"
            )
        batches = audit.clients.batch_labels()
        for g, batch in zip(audit.clients.shared(defense, oracle, "private"), batches, strict=True):
            check_gradient(g, f"a gradient under {defense.name}")
            attack = audit.attack
            labels_to_start_from(defense.name, batch, g, attack.label_rule, oracle, attack.prior)
