"""Each of the eight examples three times: on the mock, on the server, and on the server with constant replays."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from restate import TerminalError

from restate_nb.errors import InvocationFailed
from restate_nb.testing import mock_context, running_server
from tests.examples import examples
from tests.examples.examples import (
    BulkRequest,
    Dashboard,
    FetchRequest,
    Order,
    Product,
    SendResult,
    SyncResult,
)
from tests.examples.services import SUPPORTING, Message, UserStats

Call = Callable[..., Awaitable[Any]]


async def call_on_mock(handler: Any, arg: Any) -> Any:
    ctx = mock_context(services=SUPPORTING, replay=True)
    return await ctx.mock.invoke(handler, arg)


@pytest.fixture(scope="module", params=["mock", "server", "server, always replayed"])
def call(request: pytest.FixtureRequest) -> Iterator[Call]:
    """Calls a handler with an argument."""
    if request.param == "mock":
        yield call_on_mock
        return
    with running_server(*examples.EXAMPLES, *SUPPORTING, always_replay="always" in request.param) as server:
        yield server.call


async def test_1_products_are_enriched_and_those_that_fail_are_left_out(call: Call) -> None:
    found = await call(examples.enrich_products, ["apple", "nothing", "pear", "plum", "fig"])
    assert found == [Product("apple", 5, 0.5), Product("pear", 0, 0.75), Product("fig", 12, 2.0)]


async def test_2_an_order_is_valid_when_every_check_passes(call: Call) -> None:
    assert await call(examples.validate_order, Order(["apple", "fig"], "card", "1 Main St")) is None


@pytest.mark.parametrize(
    ("order", "code", "message"),
    [
        (Order(["pear"], "card", "1 Main St"), 400, "validation 0 failed"),
        (Order(["apple"], "stolen card", "1 Main St"), 400, "validation 1 failed"),
        (Order(["apple"], "card", "the moon"), 400, "validation 2 failed"),
        (Order(["apple"], "", "1 Main St"), 402, "operation 1 failed: no payment method"),
    ],
)
async def test_2_an_order_fails_with_its_failing_check(call: Call, order: Order, code: int, message: str) -> None:
    with pytest.raises((TerminalError, InvocationFailed)) as caught:
        await call(examples.validate_order, order)
    error: Any = caught.value
    assert getattr(error, "status_code", None) or error.code == code
    assert message in str(error)


async def test_3_images_are_processed_in_order(call: Call) -> None:
    urls = [f"image {n}" for n in range(120)]
    assert await call(examples.process_images, urls) == [f"thumbnail of {url}" for url in urls]


async def test_4_reports_are_generated_and_stored(call: Call) -> None:
    examples.stored.clear()
    users = [f"user{n}" for n in range(12)]
    assert await call(examples.generate_reports, users) == 12
    assert examples.stored == {user: f"monthly report of {user}" for user in users}


async def test_5_a_dashboard_has_the_results_of_three_services(call: Call) -> None:
    found = await call(examples.get_dashboard_data, "ada")
    assert found == Dashboard("ada", UserStats("ada", 3), ["ada did 0", "ada did 1"], 2)


async def test_6_failed_notifications_are_counted_and_named(call: Call) -> None:
    users = ["ada", "bounced-bob", "cy", "bounced-dan"]
    found = await call(examples.send_bulk_notifications, BulkRequest(users, Message("hello")))
    assert found == SendResult(2, 2, ["bounced-bob", "bounced-dan"])


async def test_7_tenants_are_synced_dataset_by_dataset(call: Call) -> None:
    found = await call(examples.sync_all_data, ["acme", "closed", "zen"])
    assert found == [
        SyncResult(
            tenant, [f"{tenant}/{name}: {len(tenant) + 1 + len(name)} rows" for name in ("users", "orders", "events")]
        )
        for tenant in ("acme", "zen")
    ]


@pytest.mark.parametrize("handler", [examples.fetch_from_external_api, examples.fetch_in_batches])
async def test_8_an_api_is_asked_in_batches_and_once_for_each_id(
    call: Call, handler: Any, request: pytest.FixtureRequest
) -> None:
    name, ids = request.node.name, [f"id{n}" for n in range(25)]
    assert await call(handler, FetchRequest(name, ids)) == [f"response to {item}" for item in ids]
    asked = [item for asker, item in examples.called if asker == name]
    assert sorted(asked) == sorted(ids)
    assert {*asked[:10]} == {*ids[:10]} and {*asked[10:20]} == {*ids[10:20]}, "batch after batch"


async def test_8_on_the_mock_the_pauses_are_on_the_virtual_clock() -> None:
    ctx = mock_context()
    await examples.fetch_from_external_api(ctx, FetchRequest("mock", [f"id{n}" for n in range(25)]))
    assert ctx.mock.now == pytest.approx(2 * examples.PAUSE.total_seconds())
