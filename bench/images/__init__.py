"""Images on disk: found in the layouts people have, decoded once, kept as arrays that all runs of a machine share."""
