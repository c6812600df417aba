"""Where and when jobs run."""
