"""Defenses by name, and what each is; none is imported before it is asked for."""

from collections.abc import Callable
from typing import TypeAlias

from ggl.base.registry import Registry

__all__ = ["DefenseFactory", "defenses", "register_defense"]

DefenseFactory: TypeAlias = Callable[..., object]
"""A `Defense` class or a function that returns one; its annotated parameters are the options."""

LISTED = {
    "none": (
        "ggl.defenses.base:NoDefense",
        "Shares the gradient as it is.",
    ),
    "noise": (
        "ggl.defenses.noise:GaussianNoise",
        "Adds N(0, std²) to every coordinate (GGL, arXiv 2203.15696, section 4.1).",
    ),
    "laplace": (
        "ggl.defenses.noise:LaplacianNoise",
        "Adds Laplace(0, scale) to every coordinate (as in Soteria's code, arXiv 2012.06043).",
    ),
    "clip": (
        "ggl.defenses.clipping:Clipping",
        "Scales the whole gradient to an L2 norm of at most `bound` (GGL, section 4.1; bound 4 there).",
    ),
    "clip-layer": (
        "ggl.defenses.clipping:LayerClipping",
        "Scales every parameter's gradient to an L2 norm of at most `bound` (Fed-CDP, ICDCS 2021).",
    ),
    "prune": (
        "ggl.defenses.pruning:LayerPruning",
        "Zeroes the `share` of smallest magnitudes in every parameter's gradient (as GGL and Soteria do).",
    ),
    "prune-global": (
        "ggl.defenses.pruning:GlobalPruning",
        "Zeroes the `share` of smallest magnitudes of the whole gradient (as I²F does).",
    ),
    "top-k": (
        "ggl.defenses.top_k:TopK",
        "Sends each parameter's largest coordinates and keeps the rest for later rounds (arXiv 1712.01887).",
    ),
    "sign": (
        "ggl.defenses.quantization:SignSGD",
        "Shares the sign of every coordinate, zero where it is zero (signSGD, arXiv 1802.04434).",
    ),
    "qsgd": (
        "ggl.defenses.quantization:QSGD",
        "Rounds at random, without bias, to 2^bits levels of each parameter's norm (arXiv 1610.02132).",
    ),
    "soteria": (
        "ggl.defenses.soteria:Soteria",
        "Zeroes a linear layer's gradient for the `share` of its features r with the least ‖∂r/∂x‖ / |r|.",
    ),
    "outpost": (
        "ggl.defenses.outpost:Outpost",
        "Prunes every parameter, then adds noise by the weights' spread; with probability 1/(1 + beta · "
        "round).",
    ),
    "orthogonal": (
        "ggl.defenses.orthogonal:Orthogonal",
        "Shares a random gradient orthogonal to the true one, the best of `trials`, per parameter of its "
        "norm.",
    ),
    "precode": (
        "ggl.defenses.precode:Precode",
        "Puts a variational bottleneck before the classifier (PRECODE, WACV 2022, arXiv 2108.04725).",
    ),
    "cvb": (
        "ggl.defenses.precode:CVB",
        "Puts a convolutional bottleneck after the first block (CVB, arXiv 2309.04515).",
    ),
    "ppp": (
        "ggl.defenses.ppp:PPP",
        "PRECODE, and noise on or pruning of the gradients before its bottleneck (PPP, arXiv 2208.04767).",
    ),
    "dp-sgd": (
        "ggl.defenses.privacy:DPSGD",
        "Clips every example's whole gradient to `clip`, adds N(0, (sigma·clip/B)²) to the mean (Abadi "
        "2016).",
    ),
    "fed-cdp": (
        "ggl.defenses.privacy:FedCDP",
        "Clips every layer of every example to `clip`, adds N(0, (sigma·clip/B)²) to the mean (Fed-CDP).",
    ),
    "dynamic-dp": (
        "ggl.defenses.privacy:DynamicDP",
        "Fed-CDP whose noise and clipping bound follow the training (dynamic DP, arXiv 2112.13178).",
    ),
}

defenses: Registry[DefenseFactory] = Registry("defense", "ggl.defenses", LISTED)
register_defense = defenses.register
