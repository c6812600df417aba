"""What is planned, what is run and what is written down of it."""
