"""The page for Prometheus: it holds the table's metrics and no others, in both formats, as a parser reads them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parsed_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parsed_text
from prometheus_client.samples import Sample

from server.metrics import table
from server.metrics.metrics import Metrics
from server.metrics.scrape import OPENMETRICS_TYPE, PLAIN_TYPE, Page, wants_openmetrics
from server.metrics.table import TABLE, MetricRow
from tests.server.metrics.many import crowded

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


def page(folder: Path, accept: str = "", *, workers: int = 2, models: int = 3) -> Page:
    async def scraped() -> Page:
        async with crowded(folder, workers=workers, models=models) as read:
            return await read.page(accept)

    return asyncio.run(scraped())


def base(row: MetricRow) -> str:
    return row.name.removesuffix("_total") if row.kind == "counter" else row.name


def samples(content: bytes) -> list[Sample]:
    return [sample for family in parsed_text(content.decode()) for sample in family.samples]


def test_the_page_holds_the_tables_metrics_and_no_others(tmp_path: Path) -> None:
    families = {family.name: family for family in parsed_text(page(tmp_path).content.decode())}
    assert set(families) == {base(row) for row in TABLE}
    for row in TABLE:
        assert families[base(row)].type == row.kind, row.name
        for sample in families[base(row)].samples:
            assert set(sample.labels) - {"le"} == set(row.labels), row.name


def test_openmetrics_is_written_for_who_asks_for_it_and_says_the_same(tmp_path: Path) -> None:
    plain, newer = page(tmp_path), page(tmp_path, PROMETHEUS)
    assert (plain.media_type, newer.media_type) == (PLAIN_TYPE, OPENMETRICS_TYPE)
    families = list(parsed_openmetrics(newer.content.decode()))  # type: ignore[no-untyped-call]
    assert {family.name for family in families} == {base(row) for row in TABLE}

    def steady(found: list[Sample]) -> set[tuple[str, frozenset[tuple[str, str]]]]:
        return {(one.name, frozenset(one.labels.items())) for one in found if "process" not in one.name}

    assert steady([one for family in families for one in family.samples]) == steady(samples(plain.content))


@pytest.mark.parametrize(
    "accept", ["", "text/plain", "*/*", "application/json", "text/plain;version=nonsense", "," * 99]
)
def test_anything_else_is_answered_in_the_plain_format(accept: str) -> None:
    assert not wants_openmetrics(accept)


def test_no_series_stands_twice_on_the_page(tmp_path: Path) -> None:
    found = [(one.name, tuple(sorted(one.labels.items()))) for one in samples(page(tmp_path, models=20).content)]
    assert len(found) == len(set(found)) > 1000


def test_what_a_worker_counted_comes_out_as_a_histogram_by_model_and_rows(tmp_path: Path) -> None:
    found = samples(page(tmp_path, workers=1, models=1).content)
    labels: Mapping[str, str] = {"worker": "0", "model": "model-0", "rows": "4"}

    def value(name: str, **more: str) -> float:
        (one,) = (one for one in found if one.name == name and one.labels == {**labels, **more})
        return one.value

    # Buckets of 0, 1, 2 ... items.
    assert value("safelight_step_seconds_bucket", le="0.02") == 0 + 1 + 2
    assert value("safelight_step_seconds_bucket", le="+Inf") == value("safelight_step_seconds_count") == 91
    assert value("safelight_step_seconds_sum") == 12.5


def test_the_lag_of_the_event_loop_is_told_by_whoever_measures_it(tmp_path: Path) -> None:
    async def scraped() -> bytes:
        async with crowded(tmp_path, workers=1, models=0) as read:
            read.metrics.lagged(0.004)
            return (await read.page("")).content

    counts = {
        one.labels["le"]: one.value for one in samples(asyncio.run(scraped())) if one.name == f"{table.LAG.name}_bucket"
    }
    assert (counts["0.0025"], counts["0.005"], counts["+Inf"]) == (0, 1, 1)


def test_two_servers_count_apart() -> None:
    first, second = Metrics(), Metrics()
    first.queued("m", 1.0)
    assert second.registry.get_sample_value("safelight_queue_seconds_count", {"model": "m"}) is None
    assert first.registry.get_sample_value("safelight_queue_seconds_count", {"model": "m"}) == 1
