"""Data prepared once: arrays in a folder for each version, memory-mapped, checksummed, whole or not there at all."""
