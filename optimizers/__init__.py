"""The strategy layer: ask/tell searchers."""

if __name__ != "ggl.optimizers":
    raise ImportError(f"expected import ggl.optimizers, found import {__name__}: its classes would be others")

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
