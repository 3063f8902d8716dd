"""The local restate-server: found, installed, supervised; and its HTTP APIs."""
