"""Trackers: a sweep's figures in TensorBoard, Weights & Biases, MLflow, or what a user writes."""

from ggl.benchmarks.trackers.base import Tracker, TrackerWarning
from ggl.benchmarks.trackers.catalog import load_tracker, register_tracker, trackers
from ggl.benchmarks.trackers.content import settings_of

__all__ = ["Tracker", "TrackerWarning", "load_tracker", "register_tracker", "settings_of", "trackers"]
