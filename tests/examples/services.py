"""The services that the examples call: an inventory, prices, payment, delivery, notifications, reports, a dashboard."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import restate
from restate import TerminalError


class InventoryInfo(msgspec.Struct):
    available: int


class PriceInfo(msgspec.Struct):
    amount: float


class CheckInventoryRequest(msgspec.Struct):
    items: list[str]


class VerifyPaymentRequest(msgspec.Struct):
    payment_method: str


class CheckDeliveryRequest(msgspec.Struct):
    address: str


class GenerateReportRequest(msgspec.Struct):
    user_id: str
    type: str


class Report(msgspec.Struct):
    user_id: str
    title: str


class Message(msgspec.Struct):
    subject: str


class SendStatus(msgspec.Struct):
    user_id: str
    number: int


class UserStatsRequest(msgspec.Struct):
    user_id: str


class ActivityRequest(msgspec.Struct):
    user_id: str
    limit: int


class UserStats(msgspec.Struct):
    user_id: str
    logins: int


inventory = restate.Service("Inventory")
pricing = restate.Service("Pricing")
payment = restate.Service("Payment")
delivery = restate.Service("Delivery")
reports = restate.Service("ReportGenerator")
user_stats = restate.Service("UserStats")
recent_activity = restate.Service("RecentActivity")
notifications = restate.Service("Notifications")
user_notification = restate.VirtualObject("UserNotification")

STOCK = {"apple": 5, "pear": 0, "fig": 12, "plum": 7}
PRICES = {"apple": 0.5, "pear": 0.75, "fig": 2.0}


@inventory.handler("Get")
async def get_stock(ctx: restate.Context, sku: str) -> InventoryInfo:
    def look_up() -> int:
        if sku not in STOCK:
            raise TerminalError(f"no product {sku}", 404)
        return STOCK[sku]

    return InventoryInfo(await ctx.run_typed("look up", look_up))


@inventory.handler("Check")
async def check_stock(ctx: restate.Context, request: CheckInventoryRequest) -> bool:
    return await ctx.run_typed("check", lambda: all(STOCK.get(item, 0) > 0 for item in request.items))


@pricing.handler("Get")
async def get_price(ctx: restate.Context, sku: str) -> PriceInfo:
    await ctx.sleep(timedelta(milliseconds=5))
    if sku not in PRICES:
        raise TerminalError(f"no price of {sku}", 404)
    return PriceInfo(PRICES[sku])


@payment.handler("Verify")
async def verify_payment(ctx: restate.Context, request: VerifyPaymentRequest) -> bool:
    if not request.payment_method:
        raise TerminalError("no payment method", 402)
    return await ctx.run_typed("ask the bank", lambda: request.payment_method != "stolen card")


@delivery.handler("CheckAvailability")
async def check_delivery(ctx: restate.Context, request: CheckDeliveryRequest) -> bool:
    await ctx.sleep(timedelta(milliseconds=5))
    return request.address != "the moon"


@reports.handler("Generate")
async def generate_report(ctx: restate.Context, request: GenerateReportRequest) -> Report:
    title = await ctx.run_typed("write", lambda: f"{request.type} report of {request.user_id}")
    return Report(request.user_id, title)


@user_stats.handler("Get")
async def get_user_stats(ctx: restate.Context, request: UserStatsRequest) -> UserStats:
    return UserStats(request.user_id, await ctx.run_typed("count", lambda: len(request.user_id)))


@recent_activity.handler("Get")
async def get_activity(ctx: restate.Context, request: ActivityRequest) -> list[str]:
    return [f"{request.user_id} did {n}" for n in range(3)][: request.limit]


@notifications.handler("GetUnread")
async def get_unread(ctx: restate.Context, user_id: str) -> int:
    return 2


@user_notification.handler("Send")
async def send_notification(ctx: restate.ObjectContext, message: Message) -> SendStatus:
    if ctx.key().startswith("bounced"):
        raise TerminalError(f"{ctx.key()} has no mailbox", 410)
    number = (await ctx.get("sent", type_hint=int) or 0) + 1
    ctx.set("sent", number)
    await ctx.run_typed("send", lambda: message.subject)
    return SendStatus(ctx.key(), number)


SUPPORTING = (
    inventory,
    pricing,
    payment,
    delivery,
    reports,
    user_stats,
    recent_activity,
    notifications,
    user_notification,
)
