"""Metrics, one per file; the class is named like the file."""
