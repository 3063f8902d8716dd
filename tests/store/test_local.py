"""Proves what a store in a directory promises beyond the contract: a kill, a torn end, a full disk, a fork and a system
call that fails lose nothing that counted; files are bounded, private where they are to be, and few."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from restate_nb.errors import InvalidInput
from restate_nb.store import local
from restate_nb.store.base import NotStored, Place, StoreConfig, StoreUnavailable
from restate_nb.store.local import LocalStore
from restate_nb.store.opening import open_store
from tests.durability.test_full_disk import OWN_MOUNTS, mounts_are_allowed
from tests.support import eventually, start_python


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "values" / "session"


@pytest.fixture
def store(root: Path) -> LocalStore:
    return LocalStore(StoreConfig(str(root), private=True))


def segments(root: Path, folder: str = "job") -> list[Path]:
    return sorted((root / folder).iterdir())


def open_files(below: Path) -> list[str]:
    links = list(Path("/proc/self/fd").iterdir())
    return [str(target) for link in links if link.exists() and (target := link.readlink()).is_relative_to(below)]


def test_a_call_is_one_sync_whatever_it_writes_and_directories_are_synced_once(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []

    def noted(descriptor: int) -> None:
        synced.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "segment")

    monkeypatch.setattr(local, "_sync", noted)
    monkeypatch.setattr(os, "fsync", noted)
    store.append("job", [b"x"] * 2_000)
    assert synced[-1] == "segment"
    assert synced.count("segment") == 1
    assert synced.count("folder") >= 3  # of the segment's name, the folder's, and what they lie in
    synced.clear()
    store.append("job", [b"y"] * 2_000)
    assert synced == ["segment"]


def test_segments_are_rolled_at_their_size_and_a_call_stays_in_one(
    store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "SEGMENT_BYTES", 1_000)
    for _ in range(10):
        places = store.append("job", [b"x" * 300, b"y" * 100])
        assert places[0].segment == places[1].segment
    assert sorted(each.stat().st_size for each in segments(root)) == [400, 1_200, 1_200, 1_200]


def test_a_torn_end_is_harmless_to_what_lies_before_and_comes_after(store: LocalStore, root: Path) -> None:
    """A process dies in the middle of a write: the next one appends to a segment of its own."""
    [kept] = store.append("job", [b"kept"])
    with segments(root)[0].open("ab") as file:
        file.write(b"torn")
    other = LocalStore(store.config)
    [later] = other.append("job", [b"later"])
    assert later.segment != kept.segment
    assert (other.read("job", kept, 4), other.read("job", later, 5)) == (b"kept", b"later")


def test_a_segment_that_was_cut_says_that_it_ends_early(store: LocalStore, root: Path) -> None:
    first, second = store.append("job", [b"x" * 100, b"y" * 100])
    os.truncate(segments(root)[0], 150)
    assert store.read("job", first, 100) == b"x" * 100
    with pytest.raises(NotStored, match="has 150 bytes"):
        store.read("job", second, 100)


def test_a_killed_writer_leaves_what_it_was_told_is_durable(root: Path) -> None:
    writer = start_python(
        """
        import random, sys
        from restate_nb.store.base import StoreConfig
        from restate_nb.store.local import LocalStore
        store = LocalStore(StoreConfig(sys.argv[1], private=True))
        for number in range(100_000):
            [place] = store.append("job", [random.Random(number).randbytes(5_000)])
            print(number, place.segment, place.at, flush=True)
        """,
        root,
    )
    assert writer.stdout is not None
    told = [writer.stdout.readline() for _ in range(50)]
    writer.send_signal(signal.SIGKILL)
    told += writer.stdout.readlines()
    writer.communicate()
    store = LocalStore(StoreConfig(str(root), private=True))
    for line in told:
        if line.endswith("\n"):
            number, segment, at = line.split()
            content = random.Random(int(number)).randbytes(5_000)
            assert store.read("job", Place(segment, int(at)), 5_000) == content


@pytest.mark.parametrize(("call", "code"), [("pwritev", errno.EIO), ("pwritev", errno.ENOSPC), ("_sync", errno.EIO)])
def test_a_call_that_fails_counts_nothing_and_the_next_one_goes_on(
    store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    """After a failed fsync the system may take for written what is not: nothing is appended to that segment again."""

    def fails(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    [kept] = store.append("job", [b"kept"])
    for folder in ("job", "new"):
        with monkeypatch.context() as broken:
            broken.setattr(os if call == "pwritev" else local, call, fails)
            for _ in range(3):
                with pytest.raises(StoreUnavailable, match="full" if code == errno.ENOSPC else "cannot be written"):
                    store.append(folder, [b"lost" * 1_000])
    assert [each.stat().st_size for each in segments(root)] == [4]  # nothing of it is left, and no empty files
    assert segments(root, "new") == []
    [later] = store.append("job", [b"later"])
    assert later.segment != kept.segment
    assert (store.read("job", kept, 4), store.read("job", later, 5)) == (b"kept", b"later")


def test_writes_that_are_cut_short_are_gone_on_with(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pwritev

    def short(descriptor: int, views: list[memoryview], at: int) -> int:
        return whole(descriptor, [views[0][: 1 + len(views[0]) // 3]], at)

    monkeypatch.setattr(os, "pwritev", short)
    runs = [os.urandom(size) for size in (1, 0, 10, 1_000, 77, 3_000_000, 5)]
    places = store.append("job", runs)
    assert [store.read("job", place, len(run)) for place, run in zip(places, runs, strict=True)] == runs


def test_an_interrupted_call_counts_nothing(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    [kept] = store.append("job", [b"kept"])

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as now:
        now.setattr(local, "_sync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.append("job", [b"lost"])
    [later] = store.append("job", [b"later"])
    assert (store.read("job", kept, 4), store.read("job", later, 5)) == (b"kept", b"later")


def test_a_limit_of_file_sizes_is_said_and_nothing_is_lost(root: Path) -> None:
    """The system's own refusal in the middle of a write, as a quota is."""
    code = f"""
        import resource, signal
        from restate_nb.store.base import StoreConfig, StoreUnavailable
        from restate_nb.store.local import LocalStore
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        store = LocalStore(StoreConfig({str(root)!r}, private=True))
        [kept] = store.append("job", [b"k" * 60_000])
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        try:
            store.append("job", [b"x" * 60_000])
        except StoreUnavailable as error:
            print(error)
        [later] = store.append("job", [b"y" * 60_000])
        assert later.segment != kept.segment
        assert store.read("job", kept, 60_000) == b"k" * 60_000
        assert store.read("job", later, 60_000) == b"y" * 60_000
    """
    process = start_python(code)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "cannot be written: [Errno 27] File too large" in said
    assert [each.stat().st_size for each in segments(root)] == [60_000, 60_000]


FULL_DISK = """
import subprocess, sys
from pathlib import Path
from restate_nb.store.base import StoreConfig, StoreUnavailable
from restate_nb.store.local import LocalStore

disk = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=True)
store = LocalStore(StoreConfig(str(disk / "values"), private=True))
kept = []
try:
    while True:
        content = bytes([len(kept)]) * 300_000
        kept += [(place, content) for place in store.append("job", [content])]
except StoreUnavailable as error:
    print(error)
errors = []
for _ in range(5):
    try:
        store.append("job", [b"x" * 2_000_000])
    except StoreUnavailable as error:
        errors.append(error)  # as a debugger or a log may, and with it what the call had open
        print(error)
small = store.append("other", [b"y" * 50_000])  # what the calls that failed had written is free again
assert len(kept) >= 5
assert all(store.read("job", place, len(content)) == content for place, content in kept)
files = list((disk / "values" / "job").iterdir())
assert len(files) <= 2, files
assert sum(each.stat().st_size for each in files) == sum(len(content) for _, content in kept)
store.drop("job")
[place] = store.append("job", [b"y" * 1_000_000])
assert store.read("job", place, 1_000_000) == b"y" * 1_000_000
print("goes on")
"""


def test_a_full_disk_is_said_costs_nothing_that_counted_and_goes_on_with_room(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if not mounts_are_allowed(disk):
        pytest.skip("a disk of its own for the test needs root, or user namespaces")
    done = subprocess.run(
        [*OWN_MOUNTS, sys.executable, "-c", FULL_DISK, disk], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    full = f"The disk of the store {disk}/values is full: make room there."
    assert done.stdout.splitlines() == [full] * 6 + ["goes on"]


def test_a_fork_has_segments_of_its_own_and_waits_for_no_thread_of_its_parent(store: LocalStore) -> None:
    """Threads of the parent append all the time, and hold its locks when it forks."""
    stop = threading.Event()
    kept: list[tuple[Place, bytes]] = []

    def write() -> None:
        while not stop.is_set():
            content = os.urandom(100)
            kept.append((store.append("job", [content])[0], content))

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(kept) > 20)
    children = []
    for _ in range(5):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            signal.alarm(20)
            [place] = store.append("job", [b"child"])
            os.write(writing, f"{place.segment} {place.at} {store.read('job', place, 5).decode()}".encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as told:
            children.append(told.read().split())
        assert os.waitpid(child, 0)[1] == 0
    stop.set()
    for thread in threads:
        thread.join()
    assert len({segment for segment, *_ in children}) == 5
    assert not {segment for segment, *_ in children} & {place.segment for place, _ in kept}
    assert all((at, content) == ("0", "child") for _, at, content in children)
    assert all(store.read("job", place, 100) == content for place, content in kept)


def test_few_files_are_open_however_many_folders_are_written_and_read(store: LocalStore, root: Path) -> None:
    kept = []
    for number in range(150):
        folder = f"job-{number}"
        kept += [(folder, place) for place in store.append(folder, [b"%06d" % number])]
        assert store.read(folder, kept[-1][1], 6) == b"%06d" % number
    assert len(open_files(root)) == local.MOST_WRITTEN + local.MOST_READ
    assert [store.read(*each, 6) for each in kept] == [b"%06d" % number for number in range(150)]
    for number in range(150):  # those that were left are gone on with in segments of their own
        store.append(f"job-{number}", [b"more"])
    assert len(open_files(root)) == local.MOST_WRITTEN + local.MOST_READ
    store.close()
    assert open_files(root) == []


def test_a_dropped_folder_holds_no_file_open_and_frees_its_disk(store: LocalStore, root: Path) -> None:
    [place] = store.append("job", [b"x" * 100])
    store.read("job", place, 100)
    assert len(open_files(root)) == 2
    store.drop("job")
    assert open_files(root) == []
    assert list(root.iterdir()) == []


def test_a_dropped_folder_frees_its_disk_though_another_process_has_it_open(store: LocalStore, root: Path) -> None:
    """As a worker has that wrote the values of a job which a notebook deletes."""
    worker = LocalStore(store.config)
    worker.append("job", [b"x" * 100_000])
    [file] = segments(root)
    with file.open("rb") as held:
        store.drop("job")
        assert os.fstat(held.fileno()).st_blocks == 0
    [place] = worker.append("job", [b"late"])
    assert store.read("job", place, 4) == b"late"


def test_a_backup_of_hard_links_keeps_what_the_store_drops(store: LocalStore, root: Path, tmp_path: Path) -> None:
    store.append("job", [b"x" * 100_000])
    backup = tmp_path / "backup"
    backup.hardlink_to(segments(root)[0])
    store.drop("job")
    assert not (root / "job").exists()
    assert backup.read_bytes() == b"x" * 100_000


def test_a_folder_is_in_use_while_a_process_has_it_open_and_no_longer(store: LocalStore, root: Path) -> None:
    writer = start_python(
        """
        import sys
        from restate_nb.store.base import StoreConfig
        from restate_nb.store.local import LocalStore
        store = LocalStore(StoreConfig(sys.argv[1], private=True))
        store.append("job", [b"x"])
        print("written", flush=True)
        sys.stdin.read()
        """,
        root,
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "written\n"
    assert store.in_use("job")
    assert not store.in_use("another")
    writer.kill()
    writer.communicate()
    assert not store.in_use("job")
    store.append("job", [b"x"])
    assert store.in_use("job")
    store.close()
    assert not store.in_use("job")


def test_nobody_else_can_read_or_write_a_private_store(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        root = tmp_path / "new" / "values"
        store = open_store(StoreConfig(str(root), private=True))
        store.append("job", [b"x"])
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(each.stat().st_mode) for each in (root.parent, root, root / "job", *segments(root))]
    assert modes == [0o700, 0o700, 0o700, 0o600]


def test_in_a_store_that_others_use_the_umask_says_who_may(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        store = open_store(StoreConfig(str(tmp_path / "values"), private=False))
        store.append("job", [b"x"])
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "values" / "job").stat().st_mode) == 0o775
    assert [stat.S_IMODE(each.stat().st_mode) for each in segments(tmp_path / "values")] == [0o664]


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_private_store_that_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    root = tmp_path / "values"
    root.mkdir()
    root.chmod(mode)
    with pytest.raises(InvalidInput, match=f"is not private: others may write there .its mode is {mode:o}"):
        open_store(StoreConfig(str(root), private=True))
    root.chmod(0o755)  # they may read
    open_store(StoreConfig(str(root), private=True))


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a directory to another user needs root")
def test_a_private_store_that_belongs_to_somebody_else_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "values"
    root.mkdir(0o700)
    os.chown(root, 12345, -1)
    with pytest.raises(InvalidInput, match="is not private: it belongs to the user with the number 12345"):
        open_store(StoreConfig(str(root), private=True))


def test_links_that_somebody_put_there_are_not_followed(store: LocalStore, root: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "file").write_bytes(b"secret")
    [place] = store.append("job", [b"x"])
    (root / "job" / "0.seg").symlink_to(secret / "file")
    with pytest.raises(NotStored):
        store.read("job", Place("0", 0), 6)
    (root / "link").symlink_to(secret)
    with pytest.raises(StoreUnavailable, match="symbolic link"):
        store.drop("link")
    store.drop("job")
    assert (secret / "file").read_bytes() == b"secret"
    with pytest.raises(NotStored):
        store.read("job", place, 1)


def test_what_cannot_be_opened_is_told_from_what_is_not_there(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first may be there later: too many files are open, or a disk that is mounted does not answer."""
    [place] = store.append("job", [b"x"])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(StoreUnavailable, match="Too many open files"):
            store.read("job", place, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert store.read("job", place, 1) == b"x"


def test_what_is_missing_in_a_copy_is_named(store: LocalStore, root: Path) -> None:
    [place] = store.append("job", [b"x" * 20])
    segments(root)[0].unlink()
    with pytest.raises(NotStored, match=r"/job/.*\.seg is not there, in which 20 bytes lie from 0 on: its job was del"):
        LocalStore(store.config).read("job", place, 20)
    [later] = store.append("job", [b"y"])  # whoever writes on notices
    assert LocalStore(store.config).read("job", later, 1) == b"y"


def test_more_than_one_read_can_give_is_read_whole(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_READ_AT_ONCE", 1_000)
    content = os.urandom(100_000)
    _, place = store.append("job", [b"before", content])
    assert store.read("job", place, len(content)) == content


def test_a_store_that_was_deleted_is_not_made_anew(tmp_path: Path) -> None:
    """Else a value would be kept where those before it are no more, and nobody would notice."""
    store = LocalStore(StoreConfig(str(tmp_path / "values"), private=True))
    store.append("job", [b"one"])
    shutil.rmtree(tmp_path / "values")
    with pytest.raises(StoreUnavailable, match="was deleted while it was used"):
        store.append("job", [b"two"])
    assert not (tmp_path / "values").exists()
