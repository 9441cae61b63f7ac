"""Measure what a degraded gradient still gives away to an attacker who owns a generative prior."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
