"""Measure what a degraded gradient still gives away to an attacker who owns a generative prior."""

from ggl.attack import Target, attack, attack_many, invert
from ggl.audit import audit
from ggl.base.errors import GGLError
from ggl.captured import captured_update
from ggl.datasets import Dataset, load_dataset
from ggl.defenses import Defense, load_defense, register_defense
from ggl.generators import Prior, load_prior, register_prior
from ggl.gradients import GradientOracle, LocalTraining
from ggl.i2f import influence
from ggl.optimizers import Strategy, load_strategy, register_strategy
from ggl.reconstruct import reconstruct
from ggl.reconstruction import Reconstruction
from ggl.report import Report
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
