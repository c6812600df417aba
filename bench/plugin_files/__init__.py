"""Where plug-ins are, and what their files say of themselves before anything in them is run."""
