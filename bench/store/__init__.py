"""A folder of plans, records and what is kept of runs."""
