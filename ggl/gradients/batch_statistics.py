"""Statistics of a batch at a victim's batch normalization: what a client's running statistics give away.

Yin et al., See through Gradients (GradInversion, CVPR 2021, arXiv 2104.07586), match them beside the gradient
by a term R_BN, the sum over layers of ‖μ - μ'‖ + ‖σ² - σ'²‖. Here each norm is relative to the observed
deviations' or variances', and the mean over layers is taken, so that a weight means the same on every victim.
"""

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ggl.base.errors import InputError
from ggl.gradients.layers import CandidateBatchNorm, with_candidate_batch_norm

__all__ = ["BatchStatistics", "StatisticsMatch", "normalization_layers", "statistics_of"]

BatchNorm = nn.modules.batchnorm._BatchNorm


@dataclass(frozen=True, eq=False)
class BatchStatistics:
    """Means and variances over a batch and its positions, by the layer that normalizes them.

    Attributes:
        means: (channels,) by layer.
        variances: (channels,) by layer, over n - 1, as running statistics hold them.
        steps: local steps that they are a weighted mean of; 1 is one batch.
    """

    means: dict[str, Float[Tensor, " channels"]]
    variances: dict[str, Float[Tensor, " channels"]]
    steps: int = 1


def normalization_layers(model: nn.Module) -> dict[str, BatchNorm]:
    """Return the batch normalization that keeps running statistics, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, BatchNorm) and module.running_mean is not None
    }


def statistics_of(model: nn.Module, images: Float[Tensor, "b c h w"]) -> BatchStatistics:
    """Return the statistics that one step in train mode on `images` would add to the running ones.

    The model stays as it is.

    Raises:
        InputError: it keeps no running statistics.
    """
    layers = {name: torch.empty(0) for name in normalization_layers(model)}
    match = StatisticsMatch(model, BatchStatistics(layers, layers))
    parameter = next(model.parameters())
    with torch.no_grad():
        found = match.read(images[None].to(parameter))
    means, variances = ({name: pair[k][0] for name, pair in found.items()} for k in (0, 1))
    return BatchStatistics(means, variances)


class StatisticsMatch:
    """How far candidates' statistics are from those observed.

    Args:
        model: the victim; a copy in train mode is read.
        observed: of one batch.

    Raises:
        InputError: the layers are not the victim's, the statistics are of several steps, or the victim draws
            noise before them.
    """

    def __init__(self, model: nn.Module, observed: BatchStatistics) -> None:
        known = normalization_layers(model)
        if not observed.means or not observed.means.keys() <= known.keys():
            raise InputError(
                f"expected statistics of the victim's batch normalization ({', '.join(known) or 'none'}), "
                f"found {', '.join(observed.means) or 'none'}"
            )
        if observed.steps != 1:
            raise InputError(
                f"expected the statistics of one local step to match, found a mean over {observed.steps}"
            )
        self.observed = observed
        self.model = copy.deepcopy(model).requires_grad_(False)
        for name in known:
            self.model.get_submodule(name).train()
        with_candidate_batch_norm(self.model)
        self.layers = {name: self.model.get_submodule(name) for name in observed.means}

    def read(self, images: Float[Tensor, "n b c h w"]) -> dict[str, tuple[Tensor, Tensor]]:
        """Return each candidate's means and variances, (n, channels) by layer."""
        found: dict[str, tuple[Tensor, Tensor]] = {}

        def keep(name: str, x: Tensor) -> None:
            grouped = x.unflatten(0, (-1, images.shape[1])).transpose(1, 2).flatten(2)
            found[name] = grouped.mean(2), grouped.var(2)

        for module in self.model.modules():
            if isinstance(module, CandidateBatchNorm):
                module.batch = images.shape[1]
        handles = [
            layer.register_forward_pre_hook(lambda _, inputs, name=name: keep(name, inputs[0]))
            for name, layer in self.layers.items()
        ]
        try:
            self.model(images.flatten(0, 1))
        finally:
            for handle in handles:
                handle.remove()
        return found

    def __call__(self, images: Float[Tensor, "n b c h w"]) -> Float[Tensor, " n"]:
        """Return R_BN of every candidate; differentiable in the images."""
        terms: list[Tensor] = []
        for name, (mean, variance) in self.read(images).items():
            observed = self.observed.variances[name].to(variance)
            shift = mean - self.observed.means[name].to(mean)
            terms += [
                _norm(shift) / _norm(observed.clamp_min(0).sqrt()),
                _norm(variance - observed) / _norm(observed),
            ]
        return torch.stack(terms).mean(0)


def _norm(x: Tensor) -> Tensor:
    """Return the norm over channels, above 0 where a layer is dead."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1)
    return norm.clamp_min(torch.finfo(x.dtype).tiny)
