"""Proves that handlers, clients, steps, states and promises keep annotated values, on the mock and the real server."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import restate
from pydantic import BaseModel
from restate import Context, ObjectContext, RunOptions, TerminalError
from restate.serde import BytesSerde, JsonSerde

from restate_nb.errors import InvocationFailed
from restate_nb.patterns import ObjectClient, ServiceClient, parallel_invoke, typed_values
from restate_nb.testing import LocalServer, mock_context, server

catalog = restate.Service("TypedCatalog")
shop = restate.Service("TypedShop")
plain = restate.Service("TypedPlain")
basket = restate.VirtualObject("TypedBasket")


class Product(BaseModel):
    sku: str
    since: dt.date | None = None


@dataclass
class Stock:
    product: Product
    amount: int


@catalog.handler()
async def find(ctx: Context, skus: list[str]) -> list[Product]:
    return [Product(sku=sku, since=dt.date(2026, 1, 31)) for sku in skus]


@catalog.handler()
async def count(ctx: Context, products: list[Product]) -> dict[str, Stock]:
    return {each.sku: Stock(each, 1) for each in products}


@catalog.handler()
async def maybe(ctx: Context, product: Product | None) -> Stock | str | None:
    return None if product is None else Stock(product, 2) if product.sku else "nothing"


@plain.handler(input_serde=JsonSerde(), output_serde=JsonSerde())
async def echo(ctx: Context, arg: Any) -> Any:
    """Is what a handler with the SDK's own serde sees and returns."""
    return {"type": type(arg).__name__, "value": arg}


@plain.handler(input_serde=BytesSerde(), output_serde=BytesSerde())
async def listed(ctx: Context, arg: bytes) -> bytes:
    return b'[{"sku": "from elsewhere"}]'


@basket.handler()
async def put(ctx: ObjectContext, products: list[Product]) -> list[Product]:
    kept = await ctx.get("kept", type_hint=list[Product]) or []  # type: ignore[arg-type]  # it is typed as a class
    ctx.set("kept", [*kept, *products])
    ctx.set("last", (dt.date(2026, 1, 31), len(products)))
    assert await ctx.get("last") == (dt.date(2026, 1, 31), len(products))
    return [*kept, *products]


@shop.handler()
async def steps(ctx: Context) -> list[str]:
    def load() -> list[Stock]:
        return [Stock(Product(sku="a"), 1)]

    async def none() -> Product | None:
        return None

    def unhinted():  # type: ignore[no-untyped-def]
        return [Product(sku="c")]

    found = [
        await ctx.run_typed("load", load),
        await ctx.run_typed("none", none),
        await ctx.run_typed("lambda", lambda: (Stock(Product(sku="b"), 2), {1: dt.date(2026, 1, 31)})),
        await ctx.run_typed("unhinted", unhinted),
        await ctx.run_typed("hint", lambda: {"x": {1}}, RunOptions(type_hint=dict[str, set[int]])),  # type: ignore[arg-type]
        await ctx.run("old", load),
    ]
    return [repr(each) for each in found]


@shop.handler()
async def clients(ctx: Context) -> list[str]:
    products = [Product(sku="a")]
    untyped = ServiceClient[Any, Any]("TypedPlain", "echo")
    found = [
        await ServiceClient[list[str], list[Product]]("TypedCatalog", "find").call(ctx, ["a"]),
        await ServiceClient.of(count).call(ctx, products),
        await ctx.service_call(count, products),
        [await ServiceClient.of(maybe).call(ctx, each) for each in (None, Product(sku=""), products[0])],
        await parallel_invoke(ctx, [untyped, untyped], [products, Stock(products[0], 1)]),
        await untyped.call(ctx, (1, 2)),
        await ServiceClient[None, list[Product]]("TypedPlain", "listed").call(ctx, None),
        await ObjectClient[list[Product], list[Product]]("TypedBasket", "put").call(ctx, "k", products),
        await ctx.object_call(put, "k", products),
    ]
    return [repr(each) for each in found]


@shop.handler()
async def unwritable(ctx: Context) -> str:
    try:
        await ctx.run_typed("lock", lambda: [iter([])])
    except TerminalError as error:
        return error.message
    return "kept"


@shop.handler()
async def promised(ctx: Context) -> str:
    name, future = ctx.awakeable(type_hint=list[Product])  # type: ignore[arg-type]
    ctx.resolve_awakeable(name, [Product(sku="a")])
    return repr(await future)


restate_server = server(catalog, shop, plain, basket, always_replay=True)
Call = Callable[..., Awaitable[Any]]


@pytest.fixture(params=["mock", "mock with replay", "server"])
def call(request: pytest.FixtureRequest) -> Call:
    """Calls a handler, on the mock or on the server."""
    where: Literal["mock", "mock with replay", "server"] = request.param
    if where == "server":
        running: LocalServer = request.getfixturevalue("restate_server")
        return lambda handler, *arg: running.call(handler, *arg)
    ctx = mock_context(services=[catalog, shop, plain, basket], replay=where != "mock")
    return ctx.mock.invoke


PRODUCT = "Product(sku='a', since=None)"


async def test_steps_return_what_their_action_returned(call: Call) -> None:
    stock = "[Stock(product=Product(sku='a', since=None), amount=1)]"
    other = "(Stock(product=Product(sku='b', since=None), amount=2), {1: datetime.date(2026, 1, 31)})"
    assert await call(steps) == [stock, "None", other, "[Product(sku='c', since=None)]", "{'x': {1}}", stock]


async def test_clients_keep_types_and_plain_handlers_see_plain_json(call: Call) -> None:
    plain_product = {"sku": "a", "since": None}
    stock = "{'a': Stock(product=Product(sku='a', since=None), amount=1)}"
    assert await call(clients) == [
        "[Product(sku='a', since=datetime.date(2026, 1, 31))]",
        stock,
        stock,
        "[None, 'nothing', Stock(product=Product(sku='a', since=None), amount=2)]",
        repr([
            {"type": "list", "value": [plain_product]},
            {"type": "dict", "value": {"product": plain_product, "amount": 1}},
        ]),
        repr({"type": "list", "value": [1, 2]}),
        "[Product(sku='from elsewhere', since=None)]",
        f"[{PRODUCT}]",
        f"[{PRODUCT}, {PRODUCT}]",
    ]  # fmt: skip


async def test_a_handler_is_called_from_outside_with_models_in_lists(call: Call) -> None:
    assert await call(count, [Product(sku="a")]) == {"a": Stock(Product(sku="a"), 1)}
    assert await call(find, ["a"]) == [Product(sku="a", since=dt.date(2026, 1, 31))]


async def test_what_cannot_be_recorded_ends_its_step_and_says_which(call: Call) -> None:
    assert "step 'lock' returned cannot be recorded" in await call(unwritable)


async def test_an_awakeable_brings_what_it_was_resolved_with(call: Call) -> None:
    assert await call(promised) == f"[{PRODUCT}]"


async def test_an_input_that_does_not_fit_fails_the_invocation_at_once(restate_server: LocalServer) -> None:
    with pytest.raises(InvocationFailed, match="input of TypedCatalog/count is not as annotated"):
        await restate_server.call("TypedCatalog/count", [{"wrong": 1}])


def test_a_serde_of_the_users_own_is_left_alone() -> None:
    typed_values(plain)
    assert [type(each.handler_io.input_serde) for each in plain.handlers.values()] == [JsonSerde, BytesSerde]
