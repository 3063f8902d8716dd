"""restate_nb beside its peers, each in an environment of its own and used as its own documentation recommends."""
