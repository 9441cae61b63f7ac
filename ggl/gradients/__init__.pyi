from .distance import DISTANCES
from .local import LocalTraining
from .oracle import BackendWarning, GradientOracle
from .sampled import Sampled, Trial
from .view import Clip, Gradients, Mask, Step, View

__all__ = [
    "DISTANCES",
    "BackendWarning",
    "Clip",
    "GradientOracle",
    "Gradients",
    "LocalTraining",
    "Mask",
    "Sampled",
    "Step",
    "Trial",
    "View",
]
