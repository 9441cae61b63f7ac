"""Measure what a degraded gradient still gives away to an attacker who owns a generative prior."""
