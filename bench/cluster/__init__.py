"""Work sent to a batch system: recorded before it is sent, found again, followed to its end."""
