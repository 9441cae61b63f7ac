"""Scripted reproductions: claims of papers as data, fixed before they are run, and their verdicts."""
