from .attacks.inversion import attack, attack_many, invert
from .attacks.target import Target
from .audits.audit import audit
from .audits.report import Report
from .audits.truth import check_truth
from .base.errors import GGLError
from .captures.reconstruct import reconstruct
from .captures.reconstruction import Reconstruction
from .captures.update import captured_difference, captured_update
from .costs.guarantees import guarantee
from .datasets.loading import Dataset, load_dataset
from .defenses.base import Defense
from .defenses.catalog import register_defense
from .defenses.loading import load_defense
from .generators.base import Prior
from .generators.catalog import register_prior
from .generators.loading import load_prior
from .gradients.local import LocalTraining
from .gradients.oracle import GradientOracle
from .i2f.influence import influence
from .optimizers.base import Strategy
from .optimizers.catalog import register_strategy
from .optimizers.loading import load_strategy
from .victims.catalog import register_loss, register_victim
from .victims.loading import load_victim
from .victims.losses import load_loss

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
    "captured_difference",
    "captured_update",
    "check_truth",
    "guarantee",
    "influence",
    "invert",
    "load_dataset",
    "load_defense",
    "load_loss",
    "load_prior",
    "load_strategy",
    "load_victim",
    "reconstruct",
    "register_defense",
    "register_loss",
    "register_prior",
    "register_strategy",
    "register_victim",
]
