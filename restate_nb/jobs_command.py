"""`restate-nb jobs | show | cancel | pause | resume`: the jobs of a Restate, from any terminal.

What runs is asked of the kernel that runs it, by way of Restate; it notices little of that.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from restate_nb.errors import InvalidInput
from restate_nb.formatting import count, counted, duration, one_line, rate
from restate_nb.server.address import Address
from restate_nb.server.admin import Admin
from restate_nb.server.credentials import check_encrypted, read_token, read_url
from restate_nb.server.ingress import Ingress
from restate_nb.server.lifecycle import server_status
from restate_nb.session.outside import Onlooker, SeenJob, as_json

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_SHOWN: Final = 20  # jobs, unless all are asked for
_BAR: Final = 10
_CUT: Final = 2  # names of jobs and sessions are cut where the terminal is narrow


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments; those of one job have its name."""
    verb = parser.prog.rpartition(" ")[2]
    if verb == "jobs":
        parser.add_argument("--all", action="store_true", help=f"all of them, and not the latest {_SHOWN}")
        parser.add_argument("--json", action="store_true", help="as JSON, all of them, for other programs")
        parser.add_argument(
            "--watch", type=float, nargs="?", const=1.0, metavar="SECONDS", help="show them again and again"
        )
    else:
        parser.add_argument("job", metavar="JOB", help="its name")
        parser.add_argument("--session", metavar="NAME", help="whose job it is, where several sessions have one")
        if verb == "show":
            parser.add_argument("--json", action="store_true", help="as JSON, for other programs")
    parser.add_argument(
        "--data-dir", type=Path, default=Path(".restate"), metavar="DIR", help="of the server (default: %(default)s)"
    )
    parser.add_argument("--ingress", metavar="URL", help="of a Restate that others run, in place of a data directory")
    parser.add_argument("--admin", metavar="URL", help="its admin API")
    parser.add_argument("--token-file", metavar="FILE", help="holds the token for both; else see RESTATE_AUTH_TOKEN")


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked; return the exit code."""
    return asyncio.run(_VERBS.get(arguments.verb, _steer)(arguments))


@asynccontextmanager
async def _onlooker(arguments: argparse.Namespace) -> AsyncIterator[Onlooker]:
    if arguments.ingress or arguments.admin:
        if not (arguments.ingress and arguments.admin):
            raise InvalidInput("--ingress and --admin go together: jobs are listed by the admin API.")
        urls = read_url("--ingress", arguments.ingress), read_url("--admin", arguments.admin)
        token = read_token(None if arguments.token_file is None else Path(arguments.token_file))
        check_encrypted(token, urls)
        ingress, admin = map(Address, urls)
        local = False
    else:
        status = server_status(arguments.data_dir)
        if status is None:
            raise InvalidInput(
                f"No server runs on {arguments.data_dir.absolute()}. Name the directory of one that does, --data-dir "
                "DIR; or start it: restate-nb server start."
            )
        ingress, admin, token, local = status.ingress, status.admin, None, True
    async with Admin(admin, token=token) as asked, Ingress(ingress, token=token) as called:
        yield Onlooker(asked, called, local=local)


async def _list(arguments: argparse.Namespace) -> int:
    async with _onlooker(arguments) as onlooker:
        if arguments.json:
            print(as_json(await onlooker.jobs()).decode())
        elif arguments.watch is None:
            _print(_table(await onlooker.jobs(), everything=arguments.all))
        else:
            await _watch(onlooker, max(arguments.watch, 0.2), everything=arguments.all)
    return 0


async def _watch(onlooker: Onlooker, seconds: float, *, everything: bool) -> None:
    from rich.live import Live  # noqa: PLC0415 - only for who looks on

    with Live(_table(await onlooker.jobs(), everything=everything), auto_refresh=False) as shown:
        while True:
            await asyncio.sleep(seconds)
            shown.update(_table(await onlooker.jobs(), everything=everything), refresh=True)


async def _show(arguments: argparse.Namespace) -> int:
    async with _onlooker(arguments) as onlooker:
        job = await onlooker.find(arguments.job, arguments.session)
    print(as_json([job])[1:-1].decode() if arguments.json else "\n".join(_lines(job)))
    return 0


async def _steer(arguments: argparse.Namespace) -> int:
    async with _onlooker(arguments) as onlooker:
        job = await onlooker.find(arguments.job, arguments.session)
        await onlooker.steer(job, arguments.verb)
    done = {"cancel": "cancelled", "pause": "paused", "resume": "resumed"}[arguments.verb]
    print(f"{job.manifest.name} is {done}.")
    return 0


_VERBS: Final = {"jobs": _list, "show": _show}


def _print(what: RenderableType) -> None:
    from rich.console import Console  # noqa: PLC0415 - only for who looks

    Console(file=sys.stdout).print(what)


def _table(jobs: Sequence[SeenJob], *, everything: bool) -> Table:
    from rich.table import Table  # noqa: PLC0415 - only for who looks
    from rich.text import Text  # noqa: PLC0415

    shown = jobs if everything else jobs[:_SHOWN]
    more = f"and {count(len(jobs) - len(shown))} earlier: --all" if len(shown) < len(jobs) else None
    table = Table(box=None, pad_edge=False, caption=more, caption_justify="left")
    rows = [*map(_row, shown)]
    for at, name in enumerate(("job", "session", "status", "", "done", "failed", "left", "started")):
        widest = max([len(name), *(len(row[at]) for row in rows)])
        table.add_column(
            name,
            justify="right" if name in ("done", "failed", "left") else "left",
            no_wrap=True,
            overflow="ellipsis",
            min_width=None if at < _CUT else widest,
        )
    for row in rows:
        table.add_row(*map(Text, row))
    if not jobs:
        table.caption = "There are no jobs yet."
    return table


def _row(job: SeenJob) -> tuple[str, ...]:
    live, manifest = job.live, job.manifest
    return (
        one_line(manifest.name, 60),
        job.session,
        job.status,
        _bar(job),
        f"{_number(_done(job))} of {count(manifest.total)}",
        _number(_failed(job)),
        "" if live is None or live.eta is None else duration(live.eta),
        _ago(manifest.created),
    )


def _done(job: SeenJob) -> int | None:
    live, summary = job.live, job.manifest.summary
    if live is not None:
        return live.ok + live.failed + live.cancelled
    return None if summary is None else summary.ok + summary.failed + summary.cancelled


def _failed(job: SeenJob) -> int | None:
    live, summary = job.live, job.manifest.summary
    return live.failed if live is not None else None if summary is None else summary.failed


def _number(value: int | None) -> str:
    return "?" if value is None else count(value)


def _bar(job: SeenJob) -> str:
    done, total = _done(job), job.manifest.total
    if done is None:
        return ""
    full = _BAR if not total else done * _BAR // total
    return "━" * full + "╌" * (_BAR - full)


def _ago(created: float) -> str:
    seconds = time.time() - created
    if seconds < 24 * 3600:
        return f"{duration(max(seconds, 0.0))} ago"
    return datetime.fromtimestamp(created, UTC).astimezone().strftime("%Y-%m-%d %H:%M")


def _lines(job: SeenJob) -> list[str]:
    manifest, live = job.manifest, job.live
    rounds = counted(len(manifest.rounds), "round")
    lines = [
        f"{manifest.name} ({manifest.function}), of the session {job.session}",
        f"  status    {job.status}",
        f"  done      {_number(_done(job))} of {count(manifest.total)} items, {_number(_failed(job))} failed",
        f"  started   {_ago(manifest.created)}, {rounds}",
    ]
    if live is None:
        if manifest.unfinished:
            lines.append("  nobody runs it now: rnb.start(), and run its cell")
        return lines
    pace = [] if live.rate is None else [rate(live.rate)]
    pace += [] if live.eta is None else [f"about {duration(live.eta)} left"]
    pace += [f"{count(live.running)} running of {count(live.concurrency)} at once"]
    lines.append(f"  pace      {', '.join(pace)}")
    lines += [f"  note      {text}" for text in (live.note, live.hint) if text]
    lines += [f"  failed    {count(e.count)} x {e.error_type}: {one_line(e.message, 100)}" for e in live.errors]
    return lines
