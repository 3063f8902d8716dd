"""Helpers for use inside Restate handlers; they need restate-sdk and nothing of the notebook."""
