"""From a job to its records, wherever it runs: set up, train, score, write down."""
