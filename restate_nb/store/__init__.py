"""Values and items that are too large for a journal: where they lie, and how they are found."""
