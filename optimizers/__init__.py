"""The strategy layer: ask/tell searchers."""
