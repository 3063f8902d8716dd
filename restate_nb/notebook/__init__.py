"""What a user touches: sessions, jobs, frames, charts and the panel."""
