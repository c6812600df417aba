"""Figures from a store, and pages of all it can give."""
