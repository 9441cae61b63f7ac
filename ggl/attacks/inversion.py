"""The attacks: gradient inversion, and the inversion of an image that shows what the prior can say."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ggl.attacks.checkpoints import fingerprint
from ggl.attacks.course import SearchResult
from ggl.attacks.head import head_alone
from ggl.attacks.label_rules import KNOWN, LabelRule
from ggl.attacks.label_sources import labels_to_start_from, load_label_rule
from ggl.attacks.latents import load_latents
from ggl.attacks.objectives import ImageMatch, Objective, WithStatistics, gradient_objective
from ggl.attacks.outcome import merged, winner
from ggl.attacks.search import Progress, Search
from ggl.attacks.settings import AUTO, AttackSettings
from ggl.attacks.strategy_choice import chosen_strategy
from ggl.attacks.strategy_options import read_options
from ggl.attacks.target import Target
from ggl.attacks.tuning import tuned
from ggl.base.errors import InputError
from ggl.base.random import stream_seed
from ggl.defenses import Defense, load_defense
from ggl.generators import Prior
from ggl.gradients import GradientOracle, Gradients
from ggl.gradients.batch_statistics import BatchStatistics
from ggl.gradients.oracle import check_gradient
from ggl.optimizers import load_group
from ggl.victims.losses import loss_name

__all__ = ["attack", "attack_many", "invert", "search_targets"]


def attack(
    oracle: GradientOracle,
    shared: Gradients,
    labels: Int[Tensor, " b"] | int,
    *,
    prior: Prior,
    strategy: str = AUTO,
    defense: str | Defense = "none",
    attacker: str = "adaptive",
    distance: str = "cosine",
    latents: str | None = None,
    label_rule: str | None = None,
    budget: int,
    seed: int = 0,
    restarts: int = 1,
    statistics: BatchStatistics | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> SearchResult:
    """Search the prior for the batch whose gradient matches the one that was shared.

    z* = argmin_z D(T(∇L(G(z), labels)), shared) + λ R(z), GGL (arXiv 2203.15696, eq. 5).

    Args:
        oracle: the victim, wrapped by the defense where that adds layers (`Defense.wrap`).
        shared: the observed gradient, as the defense left it.
        labels: (b,) of the private batch, or b alone where the attacker does not know them.
        prior: whose latents are searched.
        strategy: "name" or "name:option=value,..."; "auto" takes `gauss-newton` where the budget holds two
            of its Jacobians, else `cma-es`, and that too, with a warning, where there are no residuals.
            With its option "tune=RATE" half of the evaluations tune the generator (`ggl.attacks.tuning`);
            with "layers=head" the last layer's gradient alone is compared, which takes no backward pass.
        defense: what the attacker believes that the client did.
        attacker: "naive" ignores the defense, "adaptive" estimates its parameters, "informed" knows them;
            some defenses are met by further ones (`Defense.attackers`).
        distance: "cosine" or "l2".
        latents: how searched coordinates become latents, as `ggl.attacks.latents.load_latents` reads it;
            by default the prior's own rule.
        label_rule: one of `LABEL_RULES`; by default "known" where `labels` are given, else "searched".
        budget: objective evaluations, all restarts together.
        seed: of every random draw.
        restarts: independent searches that share the budget; the lowest loss wins.
        statistics: of the batch, where they were observed (`ggl.captures.batch_statistics`): matched too.
        checkpoint: a file that lets a killed attack resume with an identical result.
        progress: called after every generation.

    Raises:
        InputError: an unknown name, a budget below one generation, labels or shapes that do not fit, or
            labels that cannot be inferred.
        GradientError: `shared` is zero or not finite.
        CheckpointError: `checkpoint` belongs to another attack.

    Examples:
        >>> prior, data = ggl.load_prior("fashion-dcgan32"), ggl.load_dataset("fashion-mnist-heldout")
        >>> victim = ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=32)
        >>> oracle = ggl.GradientOracle(victim)
        >>> shared = oracle.observe(data.images[:1], data.labels[:1])
        >>> result = ggl.attack(oracle, shared, data.labels[:1], prior=prior, budget=200)
        >>> result.images.shape, result.evaluations
        (torch.Size([1, 1, 32, 32]), 198)
    """
    return attack_many(
        oracle,
        [Target("attack", shared, labels, statistics)],
        prior=prior,
        strategy=strategy,
        defense=defense,
        attacker=attacker,
        distance=distance,
        latents=latents,
        label_rule=label_rule,
        budget=budget,
        seed=seed,
        restarts=restarts,
        checkpoint=checkpoint,
        progress=progress,
    )[0]


def attack_many(
    oracle: GradientOracle,
    targets: Sequence[Target],
    *,
    prior: Prior,
    strategy: str = AUTO,
    defense: str | Defense = "none",
    attacker: str = "adaptive",
    distance: str = "cosine",
    latents: str | None = None,
    label_rule: str | None = None,
    budget: int,
    seed: int = 0,
    restarts: int = 1,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> list[SearchResult]:
    """Attack several targets side by side in shared batches; arguments and errors as in `attack`.

    `budget` is per target. Targets of one name share their strategy's random stream.

    Examples:
        >>> prior, data = ggl.load_prior("fashion-dcgan32"), ggl.load_dataset("fashion-mnist-heldout")
        >>> victim = ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=32)
        >>> oracle = ggl.GradientOracle(victim)
        >>> targets = [
        ...     ggl.Target(f"client {i}", oracle.observe(data.images[i : i + 1], labels), labels)
        ...     for i, labels in enumerate(data.labels[:2].split(1))
        ... ]
        >>> len(ggl.attack_many(oracle, targets, prior=prior, strategy="cma-es", budget=100))
        2
    """
    given = all(isinstance(target.labels, Tensor) for target in targets)
    settings = AttackSettings(
        prior=prior,
        budget=budget,
        strategy=strategy,
        defense=load_defense(defense),
        attacker=attacker,
        distance=distance,
        latents=prior.latents if latents is None else latents,
        label_rule=label_rule or ("known" if given else "searched"),
        seed=seed,
        restarts=restarts,
    )
    return search_targets(oracle, targets, settings, checkpoint=checkpoint, progress=progress)


def search_targets(
    oracle: GradientOracle,
    targets: Sequence[Target],
    settings: AttackSettings,
    *,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> list[SearchResult]:
    """Attack several targets side by side as settings say; arguments and errors as in `attack`."""
    if settings.restarts < 1:
        raise InputError(f"expected at least 1 restart, found {settings.restarts}")
    if len({target.batch_size for target in targets}) != 1:
        raise InputError("expected at least one target, all of one batch size")
    oracle.count_classes(settings.prior.image_shape)
    prior, defense, attacker = settings.prior, settings.defense, settings.attacker
    rule = load_latents(settings.latents)
    for target in targets:
        check_gradient(target.shared, f"the shared gradient {target.name!r}")
    labels = [
        labels_to_start_from(t.name, t.labels, t.shared, settings.label_rule, oracle, prior) for t in targets
    ]
    views = [
        defense.view(t.shared, attacker, oracle.model) for t in targets for _ in range(settings.restarts)
    ]
    copies = 1 if oracle.local is None else oracle.local.copies(targets[0].batch_size)
    labels = [given.repeat(copies) for given in labels]
    observed = [target.statistics for target in targets for _ in range(settings.restarts)]
    objective = gradient_objective(oracle, views, observed, settings, copies)
    strategy = chosen_strategy(
        settings,
        oracle,
        views[0],
        copies * targets[0].batch_size,
        statistics=isinstance(objective, WithStatistics),
    )
    settings = replace(settings, strategy=strategy)
    compared = objective
    if read_options(strategy).is_head:
        alone = [head_alone(view, oracle, prior.image_shape) for view in views]
        compared = gradient_objective(oracle, alone, observed, settings, copies)
    identity = {
        "prior": prior.name,
        "strategy": settings.strategy,
        "defense": defense.name,
        "attacker": attacker,
        "distance": settings.distance,
        "latents": rule.name,
        "label_rule": settings.label_rule,
        "budget": settings.budget,
        "seed": settings.seed,
        "restarts": settings.restarts,
        "statistics_weight": settings.statistics_weight,
        "precision": oracle.precision,
        "local": oracle.local,
        "loss": loss_name(oracle.loss),
        "training": [module.training for module in oracle.model.modules()],
        "targets": [target.name for target in targets],
    }
    tensors = [t for target, given in zip(targets, labels, strict=True) for t in (given, *target.tensors())]
    tensors += [*oracle.model.state_dict().values(), *prior.state_dict().values()]
    results = _search(
        settings,
        [given for given in labels for _ in range(settings.restarts)],
        compared,
        [f"{target.name}/{r}" for target in targets for r in range(settings.restarts)],
        label_rule=load_label_rule(settings.label_rule, oracle, prior),
        device=oracle.device,
        checkpoint=checkpoint,
        identity="" if checkpoint is None else fingerprint(identity, tensors),
        progress=progress,
        final=objective,
    )
    groups = [results[k * settings.restarts : (k + 1) * settings.restarts] for k in range(len(targets))]
    return [merged(winner(group), copies) for group in groups]


def invert(
    images: Float[Tensor, "n c h w"],
    labels: Int[Tensor, " n"],
    *,
    prior: Prior,
    strategy: str = "adam",
    budget: int,
    seed: int = 0,
    device: torch.device | None = None,
    first: int = 0,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> list[SearchResult]:
    """Search the prior for each image, number `first` and on, by mean squared error: an attack's ceiling.

    Examples:
        >>> prior, data = ggl.load_prior("fashion-dcgan32"), ggl.load_dataset("fashion-mnist-heldout")
        >>> (result,) = ggl.invert(data.images[:1], data.labels[:1], prior=prior, budget=100)
        >>> result.images.shape  # the nearest that the prior has, as far as 100 evaluations find it
        torch.Size([1, 1, 32, 32])
    """
    if read_options(strategy).is_head:
        raise InputError(f"strategy {strategy!r}: an image is compared, no gradient; leave layers=head out")
    identity = {"invert": prior.name, "strategy": strategy, "budget": budget, "seed": seed}
    tensors = [images, labels, *prior.state_dict().values()]
    return _search(
        AttackSettings(prior=prior, budget=budget, strategy=strategy, latents="free", seed=seed),
        list(labels[:, None]),
        ImageMatch(images[:, None]),
        [f"invert/{first + i}" for i in range(len(images))],
        label_rule=KNOWN,
        device=device or torch.device("cpu"),
        checkpoint=checkpoint,
        identity="" if checkpoint is None else fingerprint(identity, tensors),
        progress=progress,
    )


def _search(
    settings: AttackSettings,
    labels: Sequence[Tensor],
    objective: Objective,
    names: Sequence[str],
    *,
    label_rule: LabelRule,
    device: torch.device,
    checkpoint: Path | None,
    identity: str,
    progress: Progress | None,
    final: Objective | None = None,
) -> list[SearchResult]:
    """Run a search of each name, with one share of the budget among restarts."""
    batch, whole = len(labels[0]), settings.budget // settings.restarts
    options = read_options(settings.strategy)
    budget = options.own(whole)
    latents = load_latents(settings.latents)
    group = load_group(
        options.searcher,
        latent_dim=batch * (settings.prior.latent_dim + label_rule.size),
        budget=budget,
        seeds=[stream_seed(settings.seed, name) for name in names],
        device=device,
        blocks=batch,
    )
    search = Search(
        settings.prior,
        torch.stack(list(labels)),
        objective,
        group,
        budget=budget,
        latents=latents,
        label_rule=label_rule,
        device=device,
        checkpoint=checkpoint,
        identity=identity,
        final=final,
    )
    found = search.run(progress)
    if options.rate is None:
        return found
    return tuned(settings.prior, found, objective, latents, options.rate, whole - budget, progress)
