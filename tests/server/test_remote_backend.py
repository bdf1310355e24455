"""Guards a provider as a backend: all pictures or none, decoded and written anew, and a bill that forgets nothing."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from PIL import Image

from server.backends.backend import Drawn, Ears, Order
from server.backends.capabilities import CAPABILITIES
from server.backends.provider import Answer, RawPicture, Tokens
from server.backends.remote import CALLS_AT_ONCE, RemoteBackend
from server.backends.trouble import Facts, Trouble
from server.backends.upstream import Upstream
from server.core.providers import RemoteModel, Target, TokenPrices
from server.core.request import Background, Picture, RemoteRequest, Size
from server.images.decoder import Decoder
from tests.server.picture_files import RED, bomb, file_of, plain

PRICE_USD = 0.04
REQUEST = RemoteRequest(
    operation="generation",
    backend="openai",
    model="m",
    prompt="a circle",
    sent_prompt="a circle",
    negative_prompt=None,
    count=1,
    size=Size(64, 64),
    drawn_size=Size(64, 64),
    response_format="b64_json",
    price_usd=PRICE_USD,
    seed=7,
)
RED_FILE = file_of(plain("RGB", (64, 64), RED))
Turn = Callable[[int], Answer]


def red(count: int, **more: object) -> Answer:
    return Answer((RawPicture(RED_FILE),) * count, **more)  # type: ignore[arg-type]


@dataclass(slots=True)
class Upstreamer:
    """Answers with what `turn` makes of the count it is asked for. asked: each call's first picture and its count."""

    turn: Turn
    seconds: float = 0.0
    asked: list[tuple[int, int]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    async def ask(self, request: RemoteRequest, first: int, count: int, timeout_seconds: float) -> Answer:
        assert timeout_seconds > 0
        assert request.model == "m"
        self.asked.append((first, count))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(self.seconds)
            return self.turn(count)
        finally:
            self.at_once -= 1

    async def close(self) -> None:
        pass


def draw(
    upstreamer: Upstreamer,
    request: RemoteRequest = REQUEST,
    *,
    max_count: int = 10,
    model: RemoteModel | None = None,
    patience_seconds: float | None = None,
    heard: list[int] | None = None,
) -> Drawn:
    def hear(index: int, _: Picture) -> None:
        if heard is not None:
            heard.append(index)

    async def once() -> Drawn:
        decoder = Decoder()
        await decoder.start()
        try:
            can = replace(CAPABILITIES["compatible"], max_count=max_count)
            upstream = Upstream(Target("openai", "m"), "openai", model or RemoteModel(), can)
            backend = RemoteBackend(upstreamer, {"m": upstream}, 5.0, decoder)
            return await backend.draw(Order(request, "r", patience_seconds), Ears(on_picture=hear))
        finally:
            await decoder.stop()

    return asyncio.run(once())


def trouble(upstreamer: Upstreamer, request: RemoteRequest = REQUEST, **options: object) -> Trouble:
    with pytest.raises(Trouble) as caught:
        draw(upstreamer, request, **options)  # type: ignore[arg-type]
    return caught.value


def test_what_a_provider_draws_comes_in_the_format_and_the_size_that_were_asked_for() -> None:
    request = replace(REQUEST, size=Size(48, 32), output_format="webp", output_compression=80)
    drawn = draw(Upstreamer(red), request)
    image = Image.open(io.BytesIO(drawn.pictures[0].file))
    assert (image.format, image.size) == ("WEBP", (48, 32))
    assert drawn.cost_usd == drawn.pictures[0].cost_usd == PRICE_USD


def test_more_pictures_than_a_call_draws_are_split_and_stay_in_order() -> None:
    heard: list[int] = []
    upstreamer = Upstreamer(red, seconds=0.02)
    drawn = draw(upstreamer, replace(REQUEST, count=10), max_count=1, heard=heard)
    assert len(drawn.pictures) == 10
    assert sorted(upstreamer.asked) == [(index, 1) for index in range(10)]
    assert sorted(heard) == list(range(10))
    assert upstreamer.most_at_once == CALLS_AT_ONCE
    assert drawn.cost_usd == pytest.approx(10 * PRICE_USD)


def test_missing_pictures_are_asked_for_again_and_paid_for_once() -> None:
    upstreamer = Upstreamer(lambda count: red(max(1, count // 2)))
    drawn = draw(upstreamer, replace(REQUEST, count=5))
    assert upstreamer.asked == [(0, 5), (2, 3), (3, 2), (4, 1)]
    assert len(drawn.pictures) == 5
    assert drawn.cost_usd == pytest.approx(5 * PRICE_USD)


def test_more_pictures_than_were_asked_for_are_paid_for_and_dropped() -> None:
    drawn = draw(Upstreamer(lambda _: red(3)))
    assert len(drawn.pictures) == 1
    assert drawn.cost_usd == pytest.approx(3 * PRICE_USD)


def test_tokens_are_paid_for_by_their_price_where_the_answer_names_them() -> None:
    prices = TokenPrices(text_in_usd=5.0, image_in_usd=8.0, image_out_usd=30.0)
    model = RemoteModel(token_prices=prices)
    counted = Upstreamer(lambda count: red(count, tokens=Tokens(text_in=100, image_in=1000, image_out=4000)))
    assert draw(counted, model=model).cost_usd == pytest.approx((100 * 5 + 1000 * 8 + 4000 * 30) / 1e6)
    assert draw(Upstreamer(red), model=model).cost_usd == pytest.approx(PRICE_USD)


def test_a_failed_call_ends_the_others_and_names_what_was_spent() -> None:
    calls = iter(range(100))

    def every_third_fails(count: int) -> Answer:
        if next(calls) == 2:
            raise Trouble("failed", Facts(500))
        return red(count)

    found = trouble(Upstreamer(every_third_fails), replace(REQUEST, count=3), max_count=1)
    assert found.cause == "failed"
    assert found.cost_usd == pytest.approx(2 * PRICE_USD)


def test_what_may_have_been_billed_is_named_as_spent() -> None:
    def cut_off(_: int) -> Answer:
        raise Trouble("broken", Facts(200, is_charged=True))

    assert trouble(Upstreamer(cut_off), replace(REQUEST, count=2)).cost_usd == pytest.approx(2 * PRICE_USD)


def test_a_silent_provider_is_left_when_the_callers_patience_ends() -> None:
    found = trouble(Upstreamer(red, seconds=60), replace(REQUEST, count=2), patience_seconds=0.2)
    assert found.cause == "timeout"
    assert found.cost_usd == pytest.approx(2 * PRICE_USD)


def test_a_provider_that_was_not_even_reached_in_time_is_not_paid() -> None:
    class Unreached(Upstreamer):
        async def ask(self, _: RemoteRequest, __: int, ___: int, timeout_seconds: float) -> Answer:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_seconds):
                    await asyncio.sleep(60)
            raise Trouble("unreachable")

    found = trouble(Unreached(red), patience_seconds=0.3)
    assert (found.cause, found.cost_usd) == ("unreachable", 0.0)


@pytest.mark.parametrize(
    "file", [b"", b"no picture", RED_FILE[:40], bomb("PNG", 9000), b"<svg xmlns='http://www.w3.org/2000/svg'/>"]
)
def test_what_is_no_picture_reaches_nobody_and_is_paid_for(file: bytes) -> None:
    heard: list[int] = []
    found = trouble(Upstreamer(lambda _: Answer((RawPicture(file),))), heard=heard)
    assert found.cause == "bad_picture"
    assert (found.cost_usd, heard) == (PRICE_USD, [])


def test_revised_prompts_and_seeds_come_along() -> None:
    drawn = draw(Upstreamer(lambda _: Answer((RawPicture(RED_FILE, "a large circle", 11),))))
    assert (drawn.pictures[0].revised_prompt, drawn.pictures[0].seed) == ("a large circle", 11)


def test_transparency_is_kept_only_where_it_was_asked_for() -> None:
    clear = file_of(Image.new("RGBA", (64, 64), (255, 0, 0, 0)))
    wishes: tuple[tuple[Background | None, str], ...] = (("transparent", "RGBA"), (None, "RGB"))
    for background, mode in wishes:
        request = replace(REQUEST, background=background)
        file = draw(Upstreamer(lambda _: Answer((RawPicture(clear),))), request).pictures[0].file
        assert Image.open(io.BytesIO(file)).mode == mode
