"""Which job is it: what a function is, by the code that is loaded and the content of what it names.

`walk` finds what counts in `definitions`, `code` and `content` digest it, `standard` knows the types of the standard
library, `arrays` the libraries of tables and numbers, `owners` tells the user's code from what is installed, and
`report` is what comes of it.
"""

from restate_nb.service.identity.report import Identity, Part, Unseen, changed
from restate_nb.service.identity.walk import identity_of

__all__ = ["Identity", "Part", "Unseen", "changed", "identity_of"]
