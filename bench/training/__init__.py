"""Replicas of a network, the loop that trains them, and what it trains with."""
