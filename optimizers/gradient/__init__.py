"""Contrasts that are told gradients: Adam, L-BFGS, BasinCMA."""
