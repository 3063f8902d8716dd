"""Each kind of work on restate_nb, beside the best that one would take for it if nothing had to be kept."""
