"""Audits: the same images under every defense, attacker and strategy, against the same controls."""
