"""One process on one Restate."""
