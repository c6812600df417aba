"""Figures from a store: what is drawn is data (`paper.yaml`, or a user's file), how is one small kind of panel each."""
