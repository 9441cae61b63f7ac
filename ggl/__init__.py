"""Measure what a degraded gradient still gives away to an attacker who owns a generative prior."""

from ggl.attack import Target, attack, attack_many, invert
from ggl.audit import audit
from ggl.base.errors import GGLError
from ggl.datasets import Dataset, load_dataset
from ggl.defenses import Defense, load_defense, register_defense
from ggl.generators import Prior, load_prior, register_prior
from ggl.gradients import GradientOracle
from ggl.optimizers import Strategy, load_strategy, register_strategy
from ggl.report import Report
from ggl.victims import load_victim, register_victim

__all__ = [
    "Dataset",
    "Defense",
    "GGLError",
    "GradientOracle",
    "Prior",
    "Report",
    "Strategy",
    "Target",
    "attack",
    "attack_many",
    "audit",
    "invert",
    "load_dataset",
    "load_defense",
    "load_prior",
    "load_strategy",
    "load_victim",
    "register_defense",
    "register_prior",
    "register_strategy",
    "register_victim",
]
