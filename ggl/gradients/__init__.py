"""What a client shares, and how far every candidate's gradient is from it."""

from ggl.gradients.distance import DISTANCES
from ggl.gradients.local import LocalTraining
from ggl.gradients.oracle import BackendWarning, GradientOracle
from ggl.gradients.sampled import Sampled, Trial
from ggl.gradients.view import Clip, Gradients, Mask, Step, View

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
