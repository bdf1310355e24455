"""Guards what the books tell over HTTP: to whom, in whose shapes, page by page, and exactly."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import httpx
import openai
import pytest
from openai import OpenAI
from openai.types.admin.organization import usage_images_response
from pydantic import BaseModel

from server.api import usage_schemas
from server.api.usage_rows import CSV, ROWS_AT_ONCE, csv_of
from server.api.usage_schemas import CostsUsage, ImagesUsage, SummaryUsage, UsagePage
from server.ledger.ledger import Ledger
from server.ledger.problem import LedgerProblem
from tests.server.ledger.samples import beside, entry, opened
from tests.server.usage_server import DAY, FIRST_DAY, Fill, serving, three_days, usage_app

ALL: dict[str, Any] = {"start_time": FIRST_DAY, "end_time": FIRST_DAY + 3 * DAY}


@contextmanager
def reading(folder: Path, fill: Fill) -> Iterator[httpx.Client]:
    with serving(folder, fill) as url, httpx.Client(base_url=f"{url}/v1", trust_env=False, timeout=30) as books:
        yield books


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Three days of them."""
    with reading(tmp_path_factory.mktemp("books"), three_days) as books:
        yield books


def get(
    books: httpx.Client, path: str, caller: str = "admin", headers: dict[str, str] | None = None, **query: Any
) -> Any:
    """A 200's JSON, its numbers exact."""
    answer = ask(books, path, caller, headers, **query)
    assert answer.status_code == 200, answer.text
    return json.loads(answer.content, parse_float=Decimal)


def ask(
    books: httpx.Client, path: str, caller: str = "admin", headers: dict[str, str] | None = None, **query: Any
) -> httpx.Response:
    headers = {"authorization": f"Bearer {caller}", **(headers or {})}
    return books.get(path, params=query, headers=headers)


def told_by(page: Any) -> list[dict[str, Any]]:
    """Its rows, or the results of all its buckets."""
    return [one for item in page["data"] for one in item.get("results", [item])]


def results(page: Any) -> list[list[dict[str, Any]]]:
    return [bucket["results"] for bucket in page["data"]]


def test_a_row_says_who_asked_who_drew_and_what_it_cost_to_the_millionth(books: httpx.Client) -> None:
    page = get(books, "usage", limit=3)
    UsagePage.model_validate(page)
    first, _, third = page["data"]
    assert first == {
        "object": "usage.image",
        "request_id": "req_a",
        "index": 0,
        "began_unix_ms": FIRST_DAY * 1000,
        "api_key_id": "k1",
        "source": "image.generation",
        "requested_model": "dall-e-3",
        "model": "demo-sdxl",
        "backend": "local",
        "size": "512x512",
        "outcome": "succeeded",
        "error_code": None,
        "work_units": 512,
        "attempts": 1,
        "steps": 16,
        "seed": 2**64 - 1,
        "queue_ms": 10,
        "device_ms": 900,
        "latency_ms": 1000,
        "cost_usd": 0,
    }
    assert (third["backend"], third["cost_usd"]) == ("openai", Decimal("0.100001"))


def test_what_is_under_way_is_open_and_knows_no_end(books: httpx.Client) -> None:
    (row,) = get(books, "usage", outcomes="open")["data"]
    assert (row["request_id"], row["outcome"], row["cost_usd"], row["latency_ms"]) == ("req_f", "open", None, None)


def test_pages_of_rows_follow_one_another_to_the_end(books: httpx.Client) -> None:
    query: dict[str, Any] = {"limit": 4}
    seen, sizes = [], []
    while True:
        page = get(books, "usage", **query)
        seen += [(row["request_id"], row["index"]) for row in page["data"]]
        sizes.append(len(page["data"]))
        assert page["has_more"] == (page["next_page"] is not None)
        if not page["has_more"]:
            break
        query["page"] = page["next_page"]
    assert sizes == [4, 4, 2]
    assert seen == sorted(set(seen))
    assert len(seen) == 10


@pytest.mark.parametrize(
    ("query", "requests"),
    [
        ({"start_time": FIRST_DAY + 1}, "bcdefg"),
        ({"end_time": FIRST_DAY + 3600}, "a"),
        ({"api_key_ids": ["k2"]}, "bd"),
        ({"api_key_ids[]": ["k1", "k2"]}, "abcdfg"),
        ({"models": ["dall-e-3"]}, "abd"),
        ({"models[]": ["demo-sdxl"]}, "ac"),
        ({"backends": ["openai"]}, "b"),
        ({"outcomes[]": ["failed", "interrupted"]}, "dg"),
        ({"sources": ["image.edit"]}, "c"),
        ({"sizes": ["512x512"]}, "a"),
        ({"models": ["dall-e-3"], "outcomes": ["succeeded"], "api_key_ids": ["k1"]}, "a"),
    ],
)
def test_rows_are_narrowed_by_each_filter(books: httpx.Client, query: dict[str, Any], requests: str) -> None:
    found = {row["request_id"].removeprefix("req_") for row in get(books, "usage", **query)["data"]}
    assert "".join(sorted(found)) == requests


PATHS = ("usage", "organization/usage/images", "organization/costs", "usage/summary")
each_path = pytest.mark.parametrize("path", PATHS)


@each_path
def test_a_key_sees_its_own_alone_and_an_admin_key_everybodys(books: httpx.Client, path: str) -> None:
    by: dict[str, Any] = {} if path == "usage" else {"group_by": "api_key_id"}

    def keys(caller: str, **query: Any) -> set[str | None]:
        return {one["api_key_id"] for one in told_by(get(books, path, caller, **ALL, **by, **query))}

    everybody = {"k1", "k2"} if path == "organization/usage/images" else {"k1", "k2", None}
    assert keys("k1") == keys("k1", api_key_ids="k1") == {"k1"}
    assert keys("k2") == {"k2"}
    assert keys("admin") == keys("nobody") == everybody
    assert keys("admin", api_key_ids="k2") == {"k2"}


@each_path
def test_the_usage_of_another_key_is_refused_whether_there_is_such_a_key_or_not(books: httpx.Client, path: str) -> None:
    for others in (["k2"], ["k1", "k2"], ["none-of-these"]):
        answer = ask(books, path, "k1", **{**ALL, "api_key_ids[]": others})
        assert answer.status_code == 403
        error = answer.json()["error"]
        assert (error["code"], error["param"]) == ("insufficient_permissions", "api_key_ids")


@each_path
def test_a_cursor_of_an_admin_shows_another_key_nothing_of_others(books: httpx.Client, path: str) -> None:
    query: dict[str, Any] = {
        "start_time": FIRST_DAY,
        "limit": 1,
        **({} if path == "usage" else {"group_by": "api_key_id"}),
    }
    cursor = get(books, path, "admin", **query)["next_page"]
    page = get(books, path, "k2", **query, page=cursor)
    assert {one["api_key_id"] for one in told_by(page)} <= {"k2"}


@each_path
def test_a_forged_cursor_and_one_of_another_question_are_refused(books: httpx.Client, path: str) -> None:
    query: dict[str, Any] = {"start_time": FIRST_DAY, "limit": 1}
    cursor = get(books, path, **query)["next_page"]
    for forged in ("x", "é", "A" * 32, cursor[:-1], cursor[::-1]):
        answer = ask(books, path, **query, page=forged)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "page")
    assert ask(books, path, **{**query, "start_time": FIRST_DAY + 1}, page=cursor).status_code == 400


@each_path
@pytest.mark.parametrize(
    ("query", "code", "param"),
    [
        ({"start_tim": 1}, "unknown_parameter", "start_tim"),
        ({"prompt": "x"}, "unknown_parameter", "prompt"),
        ({"start_time": "yesterday"}, "invalid_parameter", "start_time"),
        ({"limit": 0}, "invalid_parameter", "limit"),
        ({"limit": 100_000}, "invalid_parameter", "limit"),
        ({"api_key_ids": ""}, "invalid_parameter", "api_key_ids"),
        ({"page": ""}, "invalid_parameter", "page"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(
    books: httpx.Client, path: str, query: dict[str, Any], code: str, param: str
) -> None:
    answer = ask(books, path, **{"start_time": FIRST_DAY, **query})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, code, param)


@pytest.mark.parametrize(
    ("path", "query", "param"),
    [
        ("organization/usage/images", {"bucket_width": "1w"}, "bucket_width"),
        ("organization/usage/images", {"group_by": "prompt"}, "group_by"),
        ("organization/usage/images", {"sources": "image.guess"}, "sources"),
        ("organization/usage/images", {"limit": 32}, "limit"),
        ("organization/usage/images", {"limit": 169, "bucket_width": "1h"}, "limit"),
        ("organization/usage/images", {"limit": 1441, "bucket_width": "1m"}, "limit"),
        ("organization/usage/images", {"end_time": FIRST_DAY}, "end_time"),
        ("organization/costs", {"bucket_width": "1h"}, "bucket_width"),
        ("organization/costs", {"limit": 181}, "limit"),
        ("organization/costs", {"group_by": "model"}, "group_by"),
        ("usage/summary", {"group_by": "project_id"}, "group_by"),
    ],
)
def test_pages_of_buckets_keep_openais_ranges(
    books: httpx.Client, path: str, query: dict[str, Any], param: str
) -> None:
    answer = ask(books, path, **{"start_time": FIRST_DAY, **query})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_a_page_of_buckets_needs_its_start(books: httpx.Client) -> None:
    for path in PATHS[1:]:
        error = ask(books, path).json()["error"]
        assert (error["code"], error["param"]) == ("missing_required_parameter", "start_time")


def test_images_are_counted_in_openais_shape_day_by_day_and_a_day_without_any_is_empty(books: httpx.Client) -> None:
    page = get(books, "organization/usage/images", **ALL)
    ImagesUsage.model_validate(page)
    nothing = dict.fromkeys(("size", "source", "project_id", "user_id", "api_key_id", "model"))
    counted = {"object": "organization.usage.images.result", "images": 6, "num_model_requests": 3, **nothing}
    days = [FIRST_DAY + day * DAY for day in range(4)]
    assert page == {
        "object": "page",
        "data": [
            {"object": "bucket", "start_time": days[0], "end_time": days[1], "results": [counted]},
            {"object": "bucket", "start_time": days[1], "end_time": days[2], "results": []},
            {"object": "bucket", "start_time": days[2], "end_time": days[3], "results": []},
        ],
        "has_more": False,
        "next_page": None,
    }


def test_images_are_grouped_by_all_that_openai_names(books: httpx.Client) -> None:
    by = ["project_id", "user_id", "api_key_id", "model", "size", "source"]
    first, *_ = results(get(books, "organization/usage/images", **{**ALL, "group_by[]": by}))
    told = [(one["api_key_id"], one["model"], one["size"], one["source"], one["images"]) for one in first]
    assert told == [
        ("k1", "demo-sdxl", "1024x1024", "image.edit", 1),
        ("k1", "demo-sdxl", "512x512", "image.generation", 2),
        ("k2", "gpt-image-2", "1024x1024", "image.generation", 3),
    ]


def test_costs_are_exact_and_itemised_by_model_and_backend(books: httpx.Client) -> None:
    page = get(books, "organization/costs", **ALL)
    CostsUsage.model_validate(page)
    first, second, third = results(page)
    assert [one["amount"] for one in first] == [{"value": Decimal("0.300003"), "currency": "usd"}]
    assert (first[0]["quantity"], first[0]["line_item"], second) == (None, None, [])
    assert third[0]["amount"]["value"] == Decimal("0.000001")
    itemised = get(books, "organization/costs", **ALL, group_by=["line_item", "api_source"])
    told = [(one["line_item"], one["quantity"], one["quantity_unit"]) for one in results(itemised)[0]]
    assert told == [("demo-sdxl, local", 3, "images"), ("gpt-image-2, openai", 3, "images")]
    assert {one["api_source"] for one in results(itemised)[0]} == {"unlabeled"}
    narrowed = get(books, "organization/costs", **ALL, line_items="demo-sdxl, local")
    assert [len(bucket) for bucket in results(narrowed)] == [1, 0, 0]


def test_the_summary_tells_failures_and_work_too(books: httpx.Client) -> None:
    page = get(books, "usage/summary", **{**ALL, "group_by[]": ["outcome"]})
    SummaryUsage.model_validate(page)
    whole = get(books, "usage/summary", **ALL)
    told = [
        [(one["images"], one["failures"], one["cancelled"], one["num_model_requests"]) for one in bucket]
        for bucket in results(whole)
    ]
    assert told == [[(6, 0, 0, 3)], [], [(0, 2, 1, 4)]]
    assert results(whole)[0][0]["work_units"] == 2 * 512 + 1.5
    assert [one["outcome"] for one in results(page)[2]] == ["cancelled", "failed", "interrupted", "open"]


def test_of_projects_and_users_there_are_none(books: httpx.Client) -> None:
    for name in ("project_ids", "user_ids"):
        page = get(books, "organization/usage/images", **{**ALL, f"{name}[]": ["proj_1"]})
        assert results(page) == [[], [], []]


@pytest.mark.parametrize(("width", "limit", "pages"), [("1d", 2, 2), ("1h", 24, 4), ("1m", 1440, 4)])
def test_pages_of_buckets_cover_the_time_without_gap_and_count_each_picture_once(
    books: httpx.Client, width: str, limit: int, pages: int
) -> None:
    query: dict[str, Any] = {**ALL, "start_time": FIRST_DAY - 5, "bucket_width": width, "limit": limit}
    found: list[dict[str, Any]] = []
    for number in range(1, pages + 1):
        page = get(books, "organization/usage/images", **query)
        found += page["data"]
        assert page["has_more"] == (number < pages)
        query["page"] = page["next_page"]
    starts, ends = [one["start_time"] for one in found], [one["end_time"] for one in found]
    assert (starts[0], ends[-1]) == (FIRST_DAY - 5, FIRST_DAY + 3 * DAY)
    assert starts[1:] == ends[:-1]
    assert sum(one["images"] for bucket in found for one in bucket["results"]) == 6


def test_without_an_end_the_last_bucket_ends_now(books: httpx.Client) -> None:
    page = get(books, "organization/usage/images", start_time=FIRST_DAY, limit=31)
    assert page["data"][0]["start_time"] == FIRST_DAY
    assert get(books, "organization/usage/images", start_time=253_402_300_799)["data"] == []


@pytest.mark.parametrize("how", ["format", "accept"])
def test_csv_is_all_rows_as_rfc_4180_has_it_without_formulas(books: httpx.Client, how: str) -> None:
    query, headers = ({"format": "csv"}, {}) if how == "format" else ({}, {"accept": "text/csv; q=1, */*;q=0.1"})
    answer = ask(books, "usage", headers=headers, **query)
    assert answer.headers["content-type"] == f"{CSV}; charset=utf-8; header=present"
    assert answer.headers["content-disposition"] == 'attachment; filename="usage.csv"'
    assert answer.text.count("\r\n") == answer.text.count("\n") == 11
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    told = [{name: value for name, value in row.items() if name != "object"} for row in get(books, "usage")["data"]]
    assert [row["request_id"] for row in rows] == [row["request_id"] for row in told]
    assert list(rows[0]) == list(told[0])
    assert rows[2]["cost_usd"] == "0.100001"
    assert rows[0]["seed"] == str(2**64 - 1)
    assert rows[7]["requested_model"] == "'=1+1"
    assert rows[8]["requested_model"] == 'a "b", c'
    assert rows[8]["cost_usd"] == ""


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x", "\tx", "\rx", "\nx"])
def test_text_that_a_spreadsheet_would_run_gets_an_apostrophe_and_a_number_does_not(text: str) -> None:
    ((written, number),) = csv.reader(io.StringIO(csv_of([[text, -1]]).decode(), newline=""))
    assert (written, number) == (f"'{text}", "-1")


def test_a_csv_file_has_no_pages(books: httpx.Client) -> None:
    for query in ({"limit": 5}, {"page": "x"}):
        answer = ask(books, "usage", format="csv", **query)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, next(iter(query)))


def test_a_csv_file_of_many_rows_holds_each_once(tmp_path: Path) -> None:
    async def fill(ledger: Ledger) -> None:
        await ledger.reserve([entry(f"req_{number}", key_id="k1") for number in range(2 * ROWS_AT_ONCE + 1)])

    with reading(tmp_path, fill) as books:
        rows = list(csv.DictReader(io.StringIO(ask(books, "usage", "k1", format="csv").text)))
        whole = ask(books, "usage/summary", "k1", start_time=0, limit=1).json()
    assert len({row["request_id"] for row in rows}) == len(rows) == 2 * ROWS_AT_ONCE + 1
    assert whole["has_more"]


def test_more_results_than_can_be_read_are_refused_with_the_way_out(
    books: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.api.usage_sums.MOST_RESULTS", 2)
    error = ask(books, "usage/summary", **{**ALL, "group_by[]": ["api_key_id", "model"]}).json()["error"]
    assert error["param"] == "limit"
    assert "group by less" in error["message"]


def test_books_that_cannot_be_read_are_an_error_that_says_so(tmp_path: Path) -> None:
    with reading(tmp_path, three_days) as books:
        assert len(get(books, "usage")["data"]) == 10
        drop_the_table(tmp_path)
        for path in PATHS:
            error = ask(books, path, start_time=FIRST_DAY).json()["error"]
            assert error["code"] == "ledger_unavailable"


def drop_the_table(folder: Path) -> None:
    with beside(f"sqlite:///{folder / 'ledger.sqlite'}") as connection:
        connection.exec_driver_sql("DROP TABLE ledger_entries")


def test_a_file_whose_end_cannot_be_read_is_broken_off_and_does_not_look_whole(tmp_path: Path) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) == 3:  # the begin, the names of the columns, and the first rows
            drop_the_table(tmp_path)

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def play() -> None:
        scope = {"type": "http", "method": "GET", "path": "/v1/usage", "query_string": b"format=csv", "headers": []}
        async with opened(f"sqlite:///{tmp_path / 'ledger.sqlite'}") as ledger:
            await ledger.reserve([entry(index=index) for index in range(ROWS_AT_ONCE + 1)])
            with pytest.raises(LedgerProblem):
                await usage_app(ledger)(scope, receive, send)

    asyncio.run(play())
    assert [message.get("more_body") for message in sent] == [None, True, True]


@pytest.fixture
def client(books: httpx.Client) -> OpenAI:
    return OpenAI(
        base_url=str(books.base_url),
        api_key="unused",
        admin_api_key="admin",
        max_retries=0,
        _strict_response_validation=True,
    )


def test_the_official_admin_client_reads_images_page_by_page_and_strictly(client: OpenAI) -> None:
    usage = client.admin.organization.usage
    first = usage.images(
        start_time=FIRST_DAY,
        end_time=FIRST_DAY + 3 * DAY,
        limit=1,
        bucket_width="1d",
        group_by=["model", "size", "source", "api_key_id", "project_id", "user_id"],
        models=["dall-e-3", "demo-sdxl"],
        sources=["image.generation", "image.edit"],
        api_key_ids=["k1", "k2"],
        sizes=["512x512", "1024x1024"],
    )
    told = [cast("Any", one) for one in first.data[0].results]
    assert {type(one).__name__ for one in told} == {"DataResultOrganizationUsageImagesResult"}
    assert [(one.images, one.num_model_requests, one.model) for one in told] == [
        (1, 1, "demo-sdxl"),
        (2, 1, "demo-sdxl"),
        (3, 1, "gpt-image-2"),
    ]
    assert first.has_more
    second = usage.images(start_time=FIRST_DAY, limit=1, page=get_page(client))
    assert second.data[0].start_time == FIRST_DAY + DAY


def get_page(client: OpenAI) -> str:
    page = client.admin.organization.usage.images(start_time=FIRST_DAY, limit=1).next_page
    assert page is not None
    return page


def test_the_official_admin_client_reads_costs_strictly_and_raises_its_errors(client: OpenAI) -> None:
    page = client.admin.organization.usage.costs(
        start_time=FIRST_DAY,
        end_time=FIRST_DAY + DAY,
        group_by=["line_item", "api_key_id", "project_id"],
        api_key_ids=["k2"],
    )
    (one,) = (cast("Any", result) for result in page.data[0].results)
    assert (one.amount.value, one.amount.currency, one.line_item) == (0.300003, "usd", "gpt-image-2, openai")
    assert (one.quantity, one.quantity_unit, one.api_key_id) == (3, "images", "k2")
    with pytest.raises(openai.BadRequestError) as caught:
        client.admin.organization.usage.costs(start_time=FIRST_DAY, limit=181)
    assert (caught.value.param, caught.value.code) == ("limit", "invalid_parameter")


@pytest.mark.parametrize(
    ("path", "ours", "theirs"),
    [
        ("organization/usage/images", "ImagesResult", "DataResultOrganizationUsageImagesResult"),
        ("organization/costs", "CostsResult", "DataResultOrganizationCostsResult"),
    ],
)
def test_a_result_has_openais_fields_and_no_others(path: str, ours: str, theirs: str) -> None:
    fields: dict[str, type[BaseModel]] = {**vars(usage_schemas), **vars(usage_images_response)}
    assert set(fields[ours].model_fields) == set(fields[theirs].model_fields), path
