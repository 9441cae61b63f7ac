"""Bayesian optimization over BoTorch: a Gaussian process, and TuRBO's trust regions."""
