"""Work handed to a batch system: written down before it is sent, found again, followed to its end."""
