"""What code and what data made a number."""
