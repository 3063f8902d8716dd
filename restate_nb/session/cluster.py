"""The Restate that a session works on: a server of its own, or one that others run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn, Protocol

from restate_nb.engine.loop_thread import LoopThread
from restate_nb.errors import InvalidInput, ServerError
from restate_nb.server.address import Address
from restate_nb.server.admin import Admin
from restate_nb.server.handle import ServerHandle
from restate_nb.server.health import trouble
from restate_nb.server.ingress import Ingress
from restate_nb.server.lifecycle import start_server
from restate_nb.server.secret import Secret
from restate_nb.server.settings import Listen
from restate_nb.service.endpoint import ListenAddress
from restate_nb.store.opening import owner_of


class Cluster(Protocol):
    """What a session asks of the Restate that it works on.

    Attributes:
        data_dir: where its data are; None when they are none of ours.
        listen_address: how it reaches this process; None when it cannot.
        shared: whether another process may serve the session's services there already.
        private: whether nobody but this user can write there. Elsewhere the names of functions that are kept there are
            those that anybody may have written, and nothing is imported by them.
    """

    @property
    def data_dir(self) -> Path | None: ...
    @property
    def listen_address(self) -> ListenAddress | None: ...
    @property
    def shared(self) -> bool: ...
    @property
    def private(self) -> bool: ...
    @property
    def server(self) -> ServerHandle:
        """The server process.

        Raises:
            InvalidInput: it is none of ours.
        """
        ...

    def ingress(self) -> Ingress:
        """A new client of its ingress, for one event loop."""
        ...

    def admin(self) -> Admin | None:
        """A new client of its admin interface, where there is a way to it."""
        ...

    def trouble(self) -> str:
        """What is wrong with it, in words; empty when nothing is found."""
        ...

    def lost(self) -> str:
        """What became of its data, in words; empty while they are there, or where that cannot be seen."""
        ...

    def revive(self) -> bool:
        """Start it again if somebody ended it; says whether that was so.

        Raises:
            ServerError: its data are gone, or it cannot be started.
        """
        ...

    def store_owner(self, session: str) -> str:
        """What the names of a session's folders begin with in a store that other clusters may use, too, and have
        sessions of that name; empty where that cannot be told."""
        ...

    def close(self) -> None:
        """Let go of it."""


class LocalCluster:
    """A managed server: started here, or adopted, and held until `close`; see `Restate`."""

    def __init__(self, data_dir: Path, *, listen: Listen = "unix", env: dict[str, str] | None = None) -> None:
        self.data_dir: Path | None = data_dir
        self._start: Callable[[], ServerHandle] = partial(
            start_server, data_dir, listen=listen, env=env, progress=print
        )
        self.server = self._start()
        if self.server.note:
            print(self.server.note)

    @property
    def listen_address(self) -> ListenAddress | None:
        return ListenAddress(self.server.identity_key)

    @property
    def shared(self) -> bool:
        return self.server.adopted

    @property
    def private(self) -> bool:
        return self.server.listen == "unix"  # any user of this machine can reach ports, and write there

    def ingress(self) -> Ingress:
        return Ingress(self.server.ingress)

    def admin(self) -> Admin | None:
        return Admin(self.server.admin)

    def trouble(self) -> str:
        return trouble(self.server)

    def lost(self) -> str:
        return self.server.lost()

    def revive(self) -> bool:
        if lost := self.lost():
            raise ServerError(lost)
        if self.server.alive:
            return False
        self.server.close()
        self.server = self._start()
        return True

    def store_owner(self, session: str) -> str:
        assert self.data_dir is not None
        copy = self.data_dir.stat().st_ino  # a copy of the directory has the same key, and jobs of its own
        return owner_of(f"{self.server.identity_key} {copy} {session}")

    def close(self) -> None:
        self.server.close()

    def __str__(self) -> str:
        assert self.data_dir is not None
        here = Path.cwd()  # a saved notebook need not tell where it was run
        return f"data in {self.data_dir.relative_to(here) if self.data_dir.is_relative_to(here) else self.data_dir}"


@dataclass(frozen=True, slots=True)
class RemoteCluster:
    """A Restate that others run: a cluster, or Restate Cloud; see `Restate`.

    Attributes:
        at: its ingress.
        admin_at: its admin interface, where there is a way to it.
        token: is sent to both.
        patience: seconds that it may fail to answer before what waits for it gives up.
    """

    at: Address
    admin_at: Address | None
    token: Secret | None
    patience: float
    listen_address: ListenAddress | None = None
    data_dir: Path | None = None
    shared: bool = True
    private: bool = False

    @property
    def server(self) -> NoReturn:
        raise InvalidInput(f"The session is connected to {self.at.url}, whose server processes are not this one's.")

    def ingress(self) -> Ingress:
        return Ingress(self.at, token=self.token, longest_patience=self.patience)

    def admin(self) -> Admin | None:
        if self.admin_at is None:
            return None
        return Admin(self.admin_at, token=self.token, patience=self.patience)

    def trouble(self) -> str:
        thread = LoopThread("rnb-look")  # that of a cell may run a loop
        try:
            return thread.run(self._trouble())
        finally:
            thread.close()

    async def _trouble(self) -> str:
        async with self.ingress() as ingress:
            if await ingress.healthy():
                return ""
        return (
            f"{self.at} does not answer; the job goes on when it does, and is no longer followed after "
            f"{self.patience:g} s without an answer"
        )

    def lost(self) -> str:
        return ""

    def revive(self) -> bool:
        return False

    def store_owner(self, session: str) -> str:
        return ""

    def close(self) -> None:
        pass

    def __str__(self) -> str:
        return f"connected to {self.at.url}"
