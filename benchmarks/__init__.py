"""Benchmarks: speed now, sweeps and reproductions to come."""
