"""Durable fan-out and batch work from a notebook, on Restate."""
