"""From a grid file to cells and runs."""
