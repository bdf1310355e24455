"""What the answers out of the books look like, for the OpenAPI page.

Knows the wire's forms; makes no answer. `usage_rows` and `usage_sums` do, and the tests compare.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Source = Literal["image.generation", "image.edit", "image.variation"]


class _Told(BaseModel):
    model_config = ConfigDict(extra="forbid")


class UsageRow(_Told):
    """One picture in the books."""

    object: Literal["usage.image"]
    request_id: str = Field(description="What the reply's x-request-id said.")
    index: int = Field(description="Which picture of the request, from 0.")
    began_unix_ms: int = Field(description="When it was reserved, milliseconds since 1970.")
    api_key_id: str | None = Field(description="Whose; null on a server without keys.")
    source: Source
    requested_model: str
    model: str | None = Field(description="Who drew; null where nobody did.")
    backend: str | None = Field(description="local, or a backend's name.")
    size: str = Field(description="As served, or as asked for where nothing was.")
    outcome: Literal["succeeded", "failed", "cancelled", "interrupted", "open"]
    error_code: str | None
    work_units: float = Field(description="Rows x pixels x steps; 0 where a provider draws.")
    attempts: int | None = Field(description="How many backends were asked.")
    steps: int | None
    seed: int | None = Field(description="Draws this picture again, up to 2^64 - 1.")
    queue_ms: int | None
    device_ms: int | None
    latency_ms: int | None
    cost_usd: float | None = Field(description="Exact to the millionth; null while it is open.")


class UsagePage(_Told):
    """Rows of the books, oldest first."""

    object: Literal["page"]
    data: list[UsageRow]
    has_more: bool
    next_page: str | None = Field(description="To be sent as `page` with the same question.")


class ImagesResult(_Told):
    object: Literal["organization.usage.images.result"]
    images: int = Field(description="Pictures that were drawn.")
    num_model_requests: int = Field(description="The requests that they belong to.")
    size: str | None
    source: Source | None
    project_id: None
    user_id: None
    api_key_id: str | None
    model: str | None


class Amount(_Told):
    value: float = Field(description="Exact to the millionth.")
    currency: Literal["usd"]


class CostsResult(_Told):
    object: Literal["organization.costs.result"]
    amount: Amount
    line_item: str | None = Field(description="MODEL, BACKEND.")
    project_id: None
    user_id: None
    api_key_id: str | None
    api_source: Literal["unlabeled"] | None
    quantity: float | None = Field(description="Pictures that were drawn.")
    quantity_unit: Literal["images"] | None


class SummaryResult(_Told):
    object: Literal["usage.summary.result"]
    images: int = Field(description="Pictures that were drawn.")
    failures: int = Field(description="Pictures that failed, or were interrupted by the server's end.")
    cancelled: int = Field(description="Pictures whose caller went away.")
    num_model_requests: int
    work_units: float = Field(description="Of the pictures that were drawn.")
    cost_usd: float = Field(description="Of all, exact to the millionth.")
    api_key_id: str | None
    model: str | None
    backend: str | None
    size: str | None
    source: Source | None
    outcome: str | None


class _Bucket(_Told):
    object: Literal["bucket"]
    start_time: int
    end_time: int


class ImagesBucket(_Bucket):
    results: list[ImagesResult]


class CostsBucket(_Bucket):
    results: list[CostsResult]


class SummaryBucket(_Bucket):
    results: list[SummaryResult]


class _Buckets(_Told):
    object: Literal["page"]
    has_more: bool
    next_page: str | None


class ImagesUsage(_Buckets):
    """Pictures, bucket by bucket."""

    data: list[ImagesBucket]


class CostsUsage(_Buckets):
    """What pictures cost, day by day."""

    data: list[CostsBucket]


class SummaryUsage(_Buckets):
    """Pictures, work, failures and cost, bucket by bucket."""

    data: list[SummaryBucket]


USAGE_SCHEMAS: tuple[type[BaseModel], ...] = (UsagePage, ImagesUsage, CostsUsage, SummaryUsage)
