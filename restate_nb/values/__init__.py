"""What a value is as bytes: JSON, and what JSON has no word for."""
