"""How items get through Restate."""
