"""The function of a job: what it is, how an item becomes its arguments, and whether the two fit."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import difflib
import functools
import inspect
import keyword
import threading
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Any, Final, Literal, NoReturn, Self, cast, get_args

import msgspec

from restate_nb.engine import process_child, seeds
from restate_nb.engine.attempt import ItemCall, Remote
from restate_nb.engine.keeping import loader
from restate_nb.errors import InvalidInput, NotEncodable
from restate_nb.formatting import short_repr
from restate_nb.policy import NO_RETRY, Retry
from restate_nb.store.base import Store
from restate_nb.values.classes import Classes
from restate_nb.values.codec import Instead, calling, decode, decode_column, encode
from restate_nb.values.keepable import why_unkeepable
from restate_nb.values.reference import is_reference
from restate_nb.values.structure import Rebuild, classes_of, parameter_annotations, rebuilder

Passing = Literal["value", "args", "kwargs"]
"""How an item is passed: as the one argument, as positional arguments, or as keyword arguments."""


Executor = Literal["auto", "thread", "process"]
"""Where items run: "auto" is the background loop for coroutine functions and a thread for plain ones."""

_MEANT: Final = {
    **dict.fromkeys(("auto", "loop", "asyncio"), "auto"),
    **dict.fromkeys(("thread", "threads", "threading", "threadpool"), "thread"),
    **dict.fromkeys(("process", "processes", "processpool", "multiprocessing", "loky"), "process"),
}
"""What people write, and the executor that they mean."""


def parse_executor(value: object) -> Executor:
    """Read an executor given by the user.

    Raises:
        InvalidInput: there is none of that name.
    """
    if isinstance(value, str) and value in get_args(Executor):
        return cast(Executor, value)
    near = difflib.get_close_matches(value.lower(), _MEANT, n=1) if isinstance(value, str) else []
    hint = f' Did you mean "{_MEANT[near[0]]}"?' if near else ""
    raise InvalidInput(
        'executor is "auto" (coroutine functions on a loop, plain functions in threads), "thread" or "process", '
        f"not {value!r}.{hint}"
    )


_READING: Final = threading.BoundedSemaphore(4)
_LONGEST_NAME: Final = 100  # it is part of the name of a job
_TRIED_BYTES: Final = 16 * 1024 * 1024  # of a function, pickled: what follows is most likely more of the same


def name_of(fn: Callable[..., Any]) -> str:
    """The function's name, as people know it, and as it can be shown."""
    fn = innermost(fn)
    name = getattr(fn, "__name__", None)
    if not isinstance(name, str) or not name.strip():
        name = type(fn).__name__
    if not name.isprintable():
        name = "".join(each if each.isprintable() else "_" for each in name)
    return "lambda" if name == "<lambda>" else name.strip()[:_LONGEST_NAME]


def innermost(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function to which `functools.partial` binds arguments."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return fn


def is_async(fn: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine for sure: partials, methods and callable objects included.

    What a wrapper gives depends on the wrapper, and not on what it wraps: `asyncio.run` in one makes a plain function
    of a coroutine function. Plain functions are called in threads; what they return is awaited where it has to be.
    """
    fn = innermost(fn)
    if inspect.iscoroutinefunction(fn):
        return True
    return not inspect.isroutine(fn) and inspect.iscoroutinefunction(getattr(type(fn), "__call__", None))  # noqa: B004


def _gives_many(fn: Callable[..., Any]) -> bool:
    """Whether it has a `yield`."""
    fn = innermost(fn)
    call = getattr(type(fn), "__call__", None)  # noqa: B004
    known = [fn] if inspect.isroutine(fn) or inspect.isclass(fn) else [fn, call]
    return any(inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each) for each in known)


def _caches_coroutines(fn: Callable[..., Any]) -> bool:
    """Whether it is a `functools.cache` around a coroutine function: the second call gives a coroutine that is over."""
    fn = innermost(fn)
    return isinstance(fn, functools._lru_cache_wrapper) and is_async(fn.__wrapped__)


def not_here(error: type[Exception], message: str) -> Callable[..., NoReturn]:
    """Stands for a function whose code is elsewhere, or not known: calling it raises this error."""
    return functools.partial(_not_here, error, message)


def _not_here(error: type[Exception], message: str, *_: Any, **__: Any) -> NoReturn:
    raise error(message)


class Function:
    """A function and the way its items are passed.

    Attributes:
        known_as: `package.module:name`, of a function that is known here by its name alone; else None.
        classes: those that its items and values may be of; `encode` refuses others.
        deployed: whether it is a handler that is deployed in Restate.

    Raises:
        InvalidInput: it is no function, or a kind of function that gives no single value.
    """

    deployed = False

    def __init__(
        self,
        fn: Callable[..., Any],
        passing: Passing = "value",
        *,
        durable: bool = False,
        executor: Executor = "auto",
        version: str | int | None = None,
        classes: Classes | None = None,
    ) -> None:
        """`durable`: its first parameter is a Restate context, which comes not from the item. `version`: stands for
        its code. `classes`: see below; those that the function names by default."""
        if not callable(fn):
            raise InvalidInput(f"The function comes first, and {fn!r} is none. Write: rnb.map(function, items).")
        if _gives_many(fn):
            raise InvalidInput(f"{name_of(fn)} has a `yield`: it gives many values. Return a list instead.")
        if _caches_coroutines(fn):
            raise InvalidInput(
                f"{name_of(fn)} is `async def` under functools.cache, which keeps coroutines, and each can be awaited "
                "only once. Leave the cache out: what is done is kept by the job; or use one for coroutines, async_lru."
            )
        self.fn = fn
        self.passing: Passing = passing
        self.name = name_of(fn)
        self.is_async = is_async(fn)
        self.durable = durable
        self.executor: Executor = executor
        self.version = version
        self.known_as: str | None = None
        self._signature = _signature(functools.partial(fn, None) if durable else fn)
        self._fitting: set[Hashable] = set()
        self._rows_of_one_frame = passing == "kwargs"
        hints = parameter_annotations(fn)
        self.classes = classes_of(fn, hints) if classes is None else classes
        rebuild_value = rebuilder(hints["return"]) if "return" in hints else None
        self._rebuild_value: Rebuild | None = (
            None if rebuild_value is None else functools.partial(_rebuilt_or_plain, rebuild_value)
        )
        self._rebuilds: dict[str | int, Rebuild] = {}
        names = self._signature.parameters.values() if self._signature else ()
        self._names = [each.name for each in names]
        for place, parameter in enumerate(names):
            if parameter.name in hints and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                rebuild = rebuilder(hints[parameter.name])
                if rebuild is not None:
                    self._rebuilds[parameter.name if passing == "kwargs" else place] = rebuild

    def spread_by_name(self) -> None:
        """Pass items, of which none was looked at by now, as keyword arguments: they turn out to be dicts."""
        if self.passing == "kwargs":
            return
        self.passing = "kwargs"
        self._rebuilds = {self._names[place]: each for place, each in self._rebuilds.items() if isinstance(place, int)}

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        """What it calls."""
        return (self.fn,)

    @property
    def one_function(self) -> bool:
        """Whether the value of one item says something about those of others."""
        return True

    @property
    def labels(self) -> tuple[str, ...]:
        """The names by which its functions are told apart."""
        return (self.name,)

    @property
    def is_elsewhere(self) -> bool:
        """Whether its code is not here, and only its name is known."""
        return self.known_as is not None

    @property
    def options(self) -> str:
        """How it is called, as far as that makes the job another one."""
        return f"{self.passing}, durable" if self.durable else self.passing

    def with_executor(self, executor: Executor) -> Self:
        """The same function, whose items another executor runs."""
        other = copy.copy(self)
        other.executor = executor
        return other

    def item_call(self, retry: Retry = NO_RETRY) -> ItemCall:
        """How a pool calls it, in the context of who asks. Payloads are encoded items.

        Args:
            retry: for worker processes, which see the exceptions themselves.

        Raises:
            InvalidInput: the function cannot be sent to a process.
        """
        call, context = self.caller(), contextvars.copy_context()
        if self.executor == "process":
            return ItemCall(call, "process", context, self._remote(retry))
        if self.executor == "thread":
            return ItemCall(lambda raw: _settled(call(raw)), "thread", context, encode=self.encode)
        return ItemCall(call, "loop" if self.is_async else "thread", context, encode=self.encode)

    def keep_in(self, store: Store | None, *, parts: bool = True, pickle: bool = False) -> None:
        """Say where its items and values may lie that are too large for a journal.

        Args:
            store: where; None where all of them are in the journal.
            parts: whether new ones go there; else it is only read.
            pickle: whether values that have no other form are pickled.
        """
        self.classes.keep_in(
            None if store is None else loader(store), parts=parts and store is not None, pickles=pickle
        )

    def encode(self, value: Any) -> bytes:
        """A value of the function as JSON; with parts, where they are stored.

        Raises:
            NotEncodable: it could not be read back as what it is.
        """
        return encode(value, self.classes)

    def encode_item(self, item: Any) -> bytes:
        """An item as `encode` writes values. Its classes are known from then on, since whoever passes it has them.

        Raises:
            NotEncodable: it could not be read back as what it is.
        """
        try:
            return encode(item, self.classes)
        except NotEncodable:
            self.classes.add_of(item)
            return encode(item, self.classes)

    def check_sendable(self) -> None:
        """See that it can be sent to processes, as far as its first megabytes tell; no copy of it is made.

        Raises:
            InvalidInput: it cannot.
        """
        from restate_nb.engine.pickling import try_dumps  # noqa: PLC0415

        for fn in self.functions:
            try:
                try_dumps(fn, _TRIED_BYTES)
            except Exception as error:
                raise InvalidInput(_not_sendable(name_of(fn), error)) from error

    def _remote(self, retry: Retry) -> Remote:
        takes = {
            "value": process_child.call_value,
            "args": process_child.call_args,
            "kwargs": process_child.call_kwargs,
        }[self.passing]
        whole: Callable[[bytes], Any] = functools.partial(takes, self.fn, self.classes, self._rebuilds)
        if not self._rebuilds and not self.classes:
            return self._sent(whole, retry, bytes)
        # Annotations of a notebook's own classes can be resolved here. What lies in the store, the worker reads.
        call = functools.partial(process_child.call_pickled, self.fn)
        try:
            return self._sent(functools.partial(call, whole), retry, self._pickled_or_stored)
        except InvalidInput:  # of annotations that cannot be pickled, maybe
            return self._sent(functools.partial(call, None), retry, self._pickled)

    def _sent(self, call: Callable[[bytes], Any], retry: Retry, pack: Callable[[bytes], bytes]) -> Remote:
        from restate_nb.engine.pickling import dumps  # noqa: PLC0415

        if (scope := seeds.scope()) is not None:
            call = functools.partial(seeds.within, scope, call)
        try:
            return Remote(dumps((call, retry, self.classes, self.classes.load)), pack)
        except Exception as error:
            raise InvalidInput(_not_sendable(self.name, error)) from error

    def _pickled_or_stored(self, raw: bytes) -> bytes:
        return raw if is_reference(raw) else self._pickled(raw)

    def _pickled(self, raw: bytes) -> bytes:
        from restate_nb.engine.pickling import dumps  # noqa: PLC0415

        value = decode(raw, self.classes)
        args: tuple[Any, ...] = ()
        kwargs: Mapping[Any, Any] = {}
        if self.passing == "value":
            args = tuple(_rebuilt([(0, value)], self._rebuilds).values())
        elif self.passing == "args":
            args = tuple(_rebuilt(enumerate(value), self._rebuilds).values())
        else:
            kwargs = _rebuilt(value.items(), self._rebuilds)
        return dumps((args, kwargs))

    def value(self, raw: bytes | msgspec.Raw, position: int = 0) -> Any:
        """A recorded value as the function returned it; plain data where it does not fit the annotation.

        Args:
            raw: the value, as `codec.encode` wrote it.
            position: of which item it is the value.

        Raises:
            NotReadable: it is of a class that is not known here.
        """
        return decode(raw, self.classes, self._rebuild_value)

    def value_column(
        self, raws: Sequence[bytes], positions: Sequence[int], instead: Instead | None = None
    ) -> list[Any]:
        """Many recorded values as `value` gives them one by one.

        Args:
            raws: the values.
            positions: of which items they are the values.
            instead: what stands for those that cannot be read back; without it, the first such raises.

        Raises:
            NotReadable: as in `value`, and only without `instead`.
        """
        return decode_column(raws, self.classes, instead, self._rebuild_value)

    def caller(self) -> Callable[[bytes], Any]:
        """Takes an encoded item, and calls the function with it."""
        call = self._caller()
        if not self.is_async or self.classes.load is None:
            return call
        return lambda raw: self._call_with_stored(raw) if is_reference(raw) else call(raw)

    async def _call_with_stored(self, raw: bytes) -> Any:
        """Call a coroutine function with an item of the store; its loop goes on while that is read."""
        item = await asyncio.to_thread(self._read_stored, raw)
        if self.passing == "value":
            return await self.fn(item)
        return await (self.fn(*item) if self.passing == "args" else self.fn(**item))

    def _read_stored(self, raw: bytes) -> Any:
        with _READING:  # few at a time, or as many as begin at once would fill the memory twice
            return self.item(raw)

    def _caller(self) -> Callable[[bytes], Any]:
        fn, classes = self.fn, self.classes
        if self.passing == "value":
            rebuild = self._rebuilds.get(0)
            if rebuild is None:
                return calling(fn, classes)
            return lambda raw: fn(rebuild(decode(raw, classes)))
        rebuilds = self._rebuilds
        if self.passing == "args":
            if not rebuilds:
                return lambda raw: fn(*decode(raw, classes))
            return lambda raw: fn(*_rebuilt(enumerate(decode(raw, classes)), rebuilds).values())
        if not rebuilds:
            return lambda raw: fn(**decode(raw, classes))
        return lambda raw: fn(**_rebuilt(decode(raw, classes).items(), rebuilds))

    def item(self, raw: bytes) -> Any:
        """An encoded item as the function gets it.

        Raises:
            NotReadable: it is of a class that is not known here.
        """
        value = decode(raw, self.classes)
        if self.passing == "value":
            return self._rebuilds[0](value) if 0 in self._rebuilds else value
        if not self._rebuilds:
            return value
        if self.passing == "args":
            return type(value)(_rebuilt(enumerate(value), self._rebuilds).values())
        return _rebuilt(value.items(), self._rebuilds)

    def item_column(self, raws: Sequence[bytes], instead: Instead) -> list[Any]:
        """Many encoded items as `item` gives them one by one.

        Args:
            raws: the items.
            instead: what stands for those that cannot be read back.
        """
        if not self._rebuilds:
            return decode_column(raws, self.classes, instead)
        column = []
        for raw in raws:
            try:
                column.append(self.item(raw))
            except Exception as error:  # a class of the user's own may do anything when it is made again
                column.append(instead(error, raw))
        return column

    # ------------------------------------------------------------ before anything is started

    def check_value(self) -> None:
        """See that what the function is annotated to return can be kept.

        Raises:
            InvalidInput: it certainly cannot.
        """
        returns = _returns(self.fn)
        why = None if returns is None else why_unkeepable(returns, pickles=self.classes.pickles)
        if why is not None:
            raise InvalidInput(
                f"What {self.name} returns could not be kept, as its annotation has it: {why} Nothing was started. If "
                "it returns something else, change the annotation or leave it out."
            )

    def check_item(self, position: int, item: Any, raw: bytes) -> None:
        """See that an item fits the function.

        Args:
            position: where it stands, for the message.
            item: the item as the user gave it.
            raw: the same, encoded.

        Raises:
            InvalidInput: it does not fit the parameters, or not the annotation of one.
        """
        self._bind(position, item)
        if not self._rebuilds:
            return
        parts = self._parts_of(decode(raw, self.classes))
        for place, rebuild in self._rebuilds.items():
            if place not in parts:
                continue
            try:
                rebuild(parts[place])
            except (ValueError, TypeError) as error:
                what = f"parameter {place!r}" if isinstance(place, str) else f"parameter {place + 1}"
                raise InvalidInput(
                    f"Item {position} does not fit {what} of {self.name}: {error}. "
                    "Change the annotation, or the item; without an annotation items are passed as plain data."
                ) from None

    def _parts_of(self, value: Any) -> Mapping[Any, Any]:
        """The arguments that a decoded item is, by place or name."""
        if self.passing == "value":
            return {0: value}
        return value if self.passing == "kwargs" else dict(enumerate(value))

    @property
    def looks_at_each(self) -> bool:
        """Whether it depends on more than the number and the names of its parts if an item fits."""
        return bool(self._rebuilds)

    def takes(self, items: Sequence[Any], raws: Callable[[], Sequence[bytes]]) -> bool:
        """Whether `check_item` would let all of these pass. False, too, where that takes a look at each.

        Args:
            items: the items as the user gave them.
            raws: gives the same, encoded.
        """
        shapes: dict[Hashable, Any] = {None: items[0]}
        if self.passing != "value":
            shapes = dict(zip(map(len if self.passing == "args" else tuple, items), items, strict=True))
        return all(map(self._fits, shapes, shapes.values())) and self._all_rebuilt(raws)

    def takes_rows(self, names: Sequence[str], raws: Callable[[], Sequence[bytes]]) -> bool:
        """The same, of rows with these names."""
        return self._fits(tuple(names), dict.fromkeys(names)) and self._all_rebuilt(raws)

    def _all_rebuilt(self, raws: Callable[[], Sequence[bytes]]) -> bool:
        if not self._rebuilds:
            return True
        try:
            for value in decode_column(raws(), self.classes):
                parts = self._parts_of(value)
                for place, rebuild in self._rebuilds.items():
                    if place in parts:
                        rebuild(parts[place])
        except Exception:  # whatever it is: who looks at each by itself comes upon it again
            return False
        return True

    def check_call(self, key: object) -> None:
        """See that the function can be called without arguments; `key` says which one it is.

        Raises:
            InvalidInput: it needs some.
        """
        try:
            if self._signature is not None:
                self._signature.bind()
        except TypeError as error:
            raise InvalidInput(
                f"Operation {key!r}, {self.name}{self._signature}, is called without arguments: {error}. Bind them: "
                f"functools.partial({self.name}, ...). To call one function with many items use rnb.map."
            ) from None

    def _bind(self, position: int, item: Any) -> None:
        shape: Hashable = None  # what `bind` depends on, so that it is asked once and not for each of a million items
        if self.passing != "value":
            shape = len(item) if self.passing == "args" else tuple(item)
        if self._signature is not None and shape not in self._fitting:
            try:
                self._bind_to(self._signature, shape, item)
            except TypeError as error:
                raise InvalidInput(self._does_not_fit(position, item, str(error))) from None

    def _bind_to(self, signature: inspect.Signature, shape: Hashable, item: Any) -> None:
        if self.passing == "kwargs":
            signature.bind(**item)
        elif self.passing == "args":
            signature.bind(*item)
        else:
            signature.bind(item)
        self._fitting.add(shape)

    def _fits(self, shape: Hashable, item: Any) -> bool:
        try:
            if self._signature is not None and shape not in self._fitting:
                self._bind_to(self._signature, shape, item)
        except TypeError:
            return False
        return True

    def _does_not_fit(self, position: int, item: Any, why: str) -> str:
        call = f"{self.name}{self._signature}"
        if self.passing == "kwargs" and self._rows_of_one_frame:
            columns = ", ".join(map(str, item))
            advice = (
                f"{call} cannot be called with the columns ({columns}): {why}. Name its parameters like the columns, "
                f"take what is not needed with **others, or pass fewer columns: rnb.map({self.name}, df[[...]])."
            )
            odd = next((each for each in item if not each.isidentifier() or keyword.iskeyword(each)), None)
            if odd is not None:
                advice += f" {odd!r} can be no parameter's name: rename it, df.rename(columns={{{odd!r}: ...}})."
            return advice
        if self.passing != "value":
            return f"{call} cannot be called with item {position}, {short_repr(item)}: {why}."
        advice = f"It gets one argument, the item. Give the others a value: functools.partial({self.name}, ...)"
        if isinstance(item, Mapping):
            advice += f"; or pass the fields of each item by name: rnb.starmap({self.name}, items)"
        elif isinstance(item, Sequence) and not isinstance(item, (str, bytes)):
            advice += f"; or spread each item over the parameters: rnb.starmap({self.name}, items)"
        return f"{call} cannot be called with an item: {why}. {advice}."


def _not_sendable(name: str, error: Exception) -> str:
    why = str(error).rstrip(".")
    return (
        f"{name} cannot be sent to a process: {why}. What it uses of its cell must be picklable: open "
        "files, connections, locks and models inside the function, or in a module that it imports."
    )


def _rebuilt_or_plain(rebuild: Rebuild, value: Any) -> Any:
    try:
        return rebuild(value)
    except (ValueError, TypeError):
        return value  # the function returned something else than it says, and that is what is shown


def _returns(fn: Callable[..., Any]) -> Any:
    """What calling it gives, as far as that is certain; None where it is not."""
    fn = innermost(fn)
    if inspect.isclass(fn):
        made = type(fn).__call__ is type.__call__ and fn.__new__ is object.__new__
        return fn if made else None
    if hasattr(fn, "__wrapped__"):
        return None  # a wrapper returns what it likes
    return parameter_annotations(fn).get("return")


def _settled(value: Any) -> Any:
    """A value; what has to be awaited for it is, in this thread, on a loop of its own."""
    return asyncio.run(_awaited(value)) if isinstance(value, Awaitable) else value


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _rebuilt(parts: Any, rebuilds: Mapping[Any, Rebuild]) -> dict[Any, Any]:
    return {place: rebuilds[place](value) if place in rebuilds else value for place, value in parts}


def _signature(fn: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(fn)
    except (ValueError, TypeError):  # some built-ins have none
        return None
