"""docs/providers-bedrock.md says what is so: its models.yaml is one, and its table's limits are the code's."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path

import pytest
import yaml

from server.backends import bedrock_faults
from server.backends.capabilities import CAPABILITIES, STABILITY_SIZES
from server.core.providers import BackendEntry, NameEntry, route_problems

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "providers-bedrock.md").read_text()


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_example_of_models_yaml_is_one() -> None:
    words = yaml.safe_load(block("yaml"))
    backends = {name: BackendEntry.model_validate(entry) for name, entry in words["backends"].items()}
    names = {name: NameEntry.model_validate(entry) for name, entry in words["names"].items()}
    for entry in names.values():
        assert not list(route_problems(entry, words["models"], backends))
    titan = backends["bedrock"].models["amazon.titan-image-generator-v2:0"]
    assert titan.is_over(date(2026, 11, 21))
    assert (titan.price_usd("512x512", "hd"), titan.price_usd("768x768", "standard")) == (0.010, 0.010)
    # `high` is drawn as `hd` is, and costs as much.
    assert titan.price_usd("1024x1024", "high") == titan.price_usd("1024x1024", "hd") == 0.012
    assert names["titan"].successor in backends["bedrock"].models


def test_the_policy_allows_the_examples_models_and_nothing_else() -> None:
    (statement,) = json.loads(block("json"))["Statement"]
    entry = BackendEntry.model_validate(yaml.safe_load(block("yaml"))["backends"]["bedrock"])
    alive = {name for name, model in entry.models.items() if model.retired is None}
    assert statement["Action"] == "bedrock:InvokeModel"
    assert {arn.rpartition("/")[2] for arn in statement["Resource"]} == alive


@pytest.mark.parametrize(
    "words",
    [
        f"one of {len(CAPABILITIES['titan'].sizes)};",
        f"one of {len(STABILITY_SIZES)} shapes",
        f"0 to {CAPABILITIES['titan'].seed_limit - 1} ",
        f"0 to {CAPABILITIES['stability'].seed_limit - 1} ",
        f"up to {CAPABILITIES['titan'].max_prompt_characters} characters",
        f"up to {CAPABILITIES['stability'].max_prompt_characters} ",
        f"up to {CAPABILITIES['titan'].max_count} in a call",
    ],
)
def test_the_limits_are_the_codes(words: str) -> None:
    assert words in PAGE


def test_every_exception_on_the_page_has_its_cause() -> None:
    table = PAGE.split("## What AWS answers")[1]
    assert set(re.findall(r"`(\w+Exception)`", table)) <= set(bedrock_faults.CAUSES)
