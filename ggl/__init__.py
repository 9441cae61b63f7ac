"""Measure what a degraded gradient still gives away to an attacker who owns a generative prior."""

from ggl.attacks.inversion import Target, attack, attack_many, invert
from ggl.audits.audit import audit
from ggl.audits.report import Report
from ggl.base.errors import GGLError
from ggl.captures.reconstruct import reconstruct
from ggl.captures.reconstruction import Reconstruction
from ggl.captures.update import captured_update
from ggl.datasets.loading import Dataset, load_dataset
from ggl.defenses import Defense, load_defense, register_defense
from ggl.generators import Prior, load_prior, register_prior
from ggl.gradients import GradientOracle, LocalTraining
from ggl.i2f.influence import influence
from ggl.optimizers import Strategy, load_strategy, register_strategy
from ggl.victims import load_victim, register_victim

__all__ = [
    "Dataset",
    "Defense",
    "GGLError",
    "GradientOracle",
    "LocalTraining",
    "Prior",
    "Reconstruction",
    "Report",
    "Strategy",
    "Target",
    "attack",
    "attack_many",
    "audit",
    "captured_update",
    "influence",
    "invert",
    "load_dataset",
    "load_defense",
    "load_prior",
    "load_strategy",
    "load_victim",
    "reconstruct",
    "register_defense",
    "register_prior",
    "register_strategy",
    "register_victim",
]
