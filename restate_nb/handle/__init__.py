"""The handle of a job, and its run."""
