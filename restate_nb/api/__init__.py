"""What a cell calls, one verb a file."""
