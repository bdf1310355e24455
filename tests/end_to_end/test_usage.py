"""What a server drew stands in its books, under the id that the reply told, and no word of what was drawn."""

from __future__ import annotations

import httpx

from tests.end_to_end.server_process import ServerProcess

PROMPT = "a large red circle on a blue background"


def test_a_picture_is_in_the_books_by_the_id_of_its_reply_and_without_its_prompt(server: ServerProcess) -> None:
    reply = server.generate(prompt=PROMPT, n=2, seed=11)
    assert reply.status_code == 200
    answers = [httpx.get(f"{server.url}/{prefix}usage?limit=1000") for prefix in ("v1/", "api/", "")]
    rows = [row for row in answers[0].json()["data"] if row["request_id"] == reply.headers["x-request-id"]]
    assert [(row["index"], row["seed"], row["outcome"], row["model"], row["backend"]) for row in rows] == [
        (0, 11, "succeeded", "demo-sdxl", "local"),
        (1, 12, "succeeded", "demo-sdxl", "local"),
    ]
    assert all(row["device_ms"] > 0 and row["work_units"] > 0 for row in rows)
    for answer in (*answers, httpx.get(f"{server.url}/v1/usage?format=csv")):
        assert reply.headers["x-request-id"] in answer.text
        assert "circle" not in answer.text
