"""Captured updates: read from files, attacked where nobody knows their images."""
