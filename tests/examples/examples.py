"""The eight examples of the guide as services, on the helpers of `restate_nb.patterns`."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

import msgspec
import restate
from restate import TerminalError
from restate.serde import MsgspecJsonSerde, Serde

from restate_nb.patterns import (
    BatchProcessor,
    ObjectClient,
    ServiceClient,
    WorkflowTimer,
    fan_out,
    fan_out_fail,
    map_concurrent,
    parallel_invoke,
)
from tests.examples.services import (
    ActivityRequest,
    CheckDeliveryRequest,
    CheckInventoryRequest,
    GenerateReportRequest,
    InventoryInfo,
    Message,
    PriceInfo,
    Report,
    SendStatus,
    UserStats,
    UserStatsRequest,
    VerifyPaymentRequest,
    check_delivery,
    check_stock,
    get_activity,
    get_unread,
    get_user_stats,
    verify_payment,
)

# 1. Fan-out of several service calls for each product; products that fail are left out.


class Product(msgspec.Struct):
    id: str
    stock: int
    price: float


product_service = restate.Service("ProductService")
PRODUCTS: Serde[list[Product]] = MsgspecJsonSerde(list[Product])  # type: ignore[no-untyped-call]


@product_service.handler("EnrichProducts", output_serde=PRODUCTS)
async def enrich_products(ctx: restate.Context, product_ids: list[str]) -> list[Product]:
    inventory = ServiceClient[str, InventoryInfo]("Inventory", "Get")
    pricing = ServiceClient[str, PriceInfo]("Pricing", "Get")

    async def enrich(product_id: str) -> Product:
        stock, price = await fan_out_fail(
            ctx, (lambda: inventory.call(ctx, product_id), lambda: pricing.call(ctx, product_id))
        )
        return Product(product_id, stock.available, price.amount)

    result = await fan_out(ctx, [partial(enrich, product_id) for product_id in product_ids])
    return [outcome.unwrap() for outcome in result if outcome.ok]


# 2. All or nothing: every check has to pass.


class Order(msgspec.Struct):
    items: list[str]
    payment_method: str
    shipping_address: str


order_service = restate.Service("OrderService")


@order_service.handler("ValidateOrder")
async def validate_order(ctx: restate.Context, order: Order) -> None:
    inventory = ServiceClient.of(check_stock)
    payment = ServiceClient.of(verify_payment)
    delivery = ServiceClient.of(check_delivery)

    results = await fan_out_fail(
        ctx,
        [
            lambda: inventory.call(ctx, CheckInventoryRequest(order.items)),
            lambda: payment.call(ctx, VerifyPaymentRequest(order.payment_method)),
            lambda: delivery.call(ctx, CheckDeliveryRequest(order.shipping_address)),
        ],
    )
    for number, valid in enumerate(results):
        if not valid:
            raise TerminalError(f"validation {number} failed", 400)


# 3. The same transformation of every item.

image_service = restate.Service("ImageService")


def process_image(url: str) -> str:
    return f"thumbnail of {url}"


@image_service.handler("ProcessImages")
async def process_images(ctx: restate.Context, image_urls: list[str]) -> list[str]:
    return await map_concurrent(ctx, image_urls, lambda url: ctx.run_typed("process", process_image, url=url))


# 4. Batches with so many at once.

report_service = restate.Service("ReportService")
stored: dict[str, str] = {}


def store_report(report: Report) -> None:
    stored[report.user_id] = report.title


@report_service.handler("GenerateReports")
async def generate_reports(ctx: restate.Context, user_ids: list[str]) -> int:
    generator = ServiceClient[GenerateReportRequest, Report]("ReportGenerator", "Generate")
    processor = BatchProcessor(ctx, 5)
    written = await processor.process_batch(
        user_ids, lambda user_id: generator.call(ctx, GenerateReportRequest(user_id, "monthly"))
    )
    for report in written:
        await ctx.run_typed("store", store_report, report=report)
    return len(written)


# 5. Different services side by side, each with its own types.


class Dashboard(msgspec.Struct):
    user_id: str
    stats: UserStats
    recent_activity: list[str]
    notifications: int


dashboard_service = restate.Service("DashboardService")


@dashboard_service.handler("GetDashboardData")
async def get_dashboard_data(ctx: restate.Context, user_id: str) -> Dashboard:
    clients = (ServiceClient.of(get_user_stats), ServiceClient.of(get_activity), ServiceClient.of(get_unread))
    inputs = (UserStatsRequest(user_id), ActivityRequest(user_id, limit=2), user_id)
    stats, activity, unread = await parallel_invoke(ctx, clients, inputs)
    return Dashboard(user_id, stats, activity, unread)


# 6. Partial failures are counted.


class BulkRequest(msgspec.Struct):
    user_ids: list[str]
    message: Message


class SendResult(msgspec.Struct):
    total_sent: int
    total_failed: int
    failed_users: list[str]


notification_service = restate.Service("NotificationService")


@notification_service.handler("SendBulkNotifications")
async def send_bulk_notifications(ctx: restate.Context, request: BulkRequest) -> SendResult:
    notify = ObjectClient[Message, SendStatus]("UserNotification", "Send")
    result = await fan_out(ctx, [partial(notify.call, ctx, user, request.message) for user in request.user_ids])
    failed = [request.user_ids[outcome.index] for outcome in result if not outcome.ok]
    return SendResult(result.success, result.failed, failed)


# 7. A fan-out inside a fan-out.


class SyncResult(msgspec.Struct):
    tenant_id: str
    datasets: list[str]


data_sync_service = restate.Service("DataSyncService")
SYNC_RESULTS: Serde[list[SyncResult]] = MsgspecJsonSerde(list[SyncResult])  # type: ignore[no-untyped-call]


def list_datasets(tenant_id: str) -> list[str]:
    if tenant_id == "closed":
        raise TerminalError("the tenant has left", 410)
    return [f"{tenant_id}/{name}" for name in ("users", "orders", "events")]


async def sync_dataset(ctx: restate.Context, dataset: str) -> str:
    rows = await ctx.run_typed("extract", lambda: len(dataset))
    await ctx.sleep(timedelta(milliseconds=rows % 4))
    return await ctx.run_typed("load", lambda: f"{dataset}: {rows} rows")


@data_sync_service.handler("SyncAllData", output_serde=SYNC_RESULTS)
async def sync_all_data(ctx: restate.Context, tenant_ids: list[str]) -> list[SyncResult]:
    async def sync_tenant(tenant_id: str) -> SyncResult:
        datasets = await ctx.run_typed("list datasets", list_datasets, tenant_id=tenant_id)
        return SyncResult(tenant_id, await map_concurrent(ctx, datasets, lambda dataset: sync_dataset(ctx, dataset)))

    result = await fan_out(ctx, [partial(sync_tenant, tenant_id) for tenant_id in tenant_ids])
    return [outcome.unwrap() for outcome in result if outcome.ok]


# 8. Batches with a durable pause between them, to stay under a rate limit.

api_service = restate.Service("ApiService")
PAUSE = timedelta(milliseconds=20)
called: list[tuple[str, str]] = []  # the name of the invocation and the id that it asked for


def call_external_api(name: str, item: str) -> str:
    called.append((name, item))
    return f"response to {item}"


class FetchRequest(msgspec.Struct):
    name: str
    ids: list[str]


@api_service.handler("FetchFromExternalAPI")
async def fetch_from_external_api(ctx: restate.Context, request: FetchRequest) -> list[str]:
    processor = BatchProcessor(ctx, 10)
    timer = WorkflowTimer(ctx)
    batch_size = 10

    async def fetch(item: str) -> str:
        return await ctx.run_typed("call", call_external_api, name=request.name, item=item)

    responses: list[str] = []
    for start in range(0, len(request.ids), batch_size):
        batch = request.ids[start : start + batch_size]
        responses += await processor.process_batch(batch, fetch)
        if start + batch_size < len(request.ids):
            await timer.sleep(PAUSE)
    return responses


@api_service.handler("FetchInBatches")
async def fetch_in_batches(ctx: restate.Context, request: FetchRequest) -> list[str]:
    """The same in one call."""

    async def fetch(item: str) -> str:
        return await ctx.run_typed("call", call_external_api, name=request.name, item=item)

    return await BatchProcessor(ctx, 10).process_batches(request.ids, fetch, batch_size=10, pause=PAUSE)


EXAMPLES = (
    product_service,
    order_service,
    image_service,
    report_service,
    dashboard_service,
    notification_service,
    data_sync_service,
    api_service,
)
