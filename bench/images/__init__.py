"""Images on disk: found in common layouts, decoded once, kept as arrays that all runs on a machine share."""
