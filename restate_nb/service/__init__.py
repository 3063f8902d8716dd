"""What a session serves to Restate."""
