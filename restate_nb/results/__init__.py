"""What is known of a job: outcomes, frames, errors."""
