"""The harness: grids, engine, records, store and leaderboards."""
