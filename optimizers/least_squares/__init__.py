"""Searches that are told residuals: least squares without derivatives of the objective."""
