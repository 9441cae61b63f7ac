"""What a client shares, and how far every candidate's gradient is from it."""

from ggl.gradients.distance import DISTANCES
from ggl.gradients.oracle import BackendWarning, GradientOracle
from ggl.gradients.view import Clip, Gradients, Mask, View

__all__ = ["DISTANCES", "BackendWarning", "Clip", "GradientOracle", "Gradients", "Mask", "View"]
