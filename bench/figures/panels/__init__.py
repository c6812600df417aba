"""Panels of figures, one kind a file, whose class is called like the file."""
