"""Sweeps: what is run (spec, cells), where (engines), what became of it (records, store)."""
