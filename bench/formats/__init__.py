"""A leaderboard as text, one format a file."""
