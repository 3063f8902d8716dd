"""Workers, limits and the commit loop: plain functions run in groups that Restate records."""
