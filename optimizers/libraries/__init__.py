"""Searchers of pycma and Nevergrad."""
