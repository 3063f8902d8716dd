"""Progress of jobs that never ran."""

from restate_nb.results.progress import Progress


def progress(**changes: object) -> Progress:
    given: dict = {"name": "pages", "function": "fetch", "status": "running", "total": 1000} | changes
    return Progress(**given)
