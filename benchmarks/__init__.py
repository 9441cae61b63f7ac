"""Sweeps, their checks and pages, scripted reproductions; speed, studies and tools beside them."""

if __name__ != "ggl.benchmarks":
    raise ImportError(f"expected import ggl.benchmarks, found import {__name__}: its classes would be others")
