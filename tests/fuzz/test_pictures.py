"""Whatever is sent as a picture, who sent it gets a picture or a refusal, and the next one's picture is untouched."""

from __future__ import annotations

import asyncio

from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from server.core.errors import SafelightError
from server.core.model_entry import Limits
from server.images.decoder import Decoder
from tests.fuzz.budget import budget
from tests.server.picture_files import BLACK, RED, bomb, file_of, halves, slow_jpeg

LIMITS = Limits(min_side_px=64, max_side_px=512, side_multiple_px=8, max_pixels=512 * 512)
PICTURE = halves((64, 64), RED, BLACK)
GOOD = [file_of(PICTURE, kind) for kind in ("PNG", "JPEG", "WEBP")] + [file_of(Image.new("P", (64, 64), 3))]
CHANGES = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8)


def changed(file: bytes, changes: list[tuple[int, int]], end: int) -> bytes:
    """Some bytes are others, and what is behind `end` is gone."""
    spoilt = bytearray(file)
    for place, value in changes:
        spoilt[place % len(spoilt)] = value
    return bytes(spoilt[: 1 + end % len(spoilt)] if end % 3 == 0 else spoilt)


FILES = st.one_of(
    st.builds(changed, st.sampled_from(GOOD), CHANGES, st.integers(0, 10**6)),
    st.binary(max_size=100),
    st.builds(lambda begin, rest: begin + rest, st.sampled_from([file[:40] for file in GOOD]), st.binary(max_size=60)),
)


async def fitted(decoder: Decoder, files: list[bytes]) -> None:
    """Each hostile file between two innocent ones, all at once and one after the other."""
    await decoder.start()
    try:
        undisturbed = await decoder.fit(GOOD[0], None, None, LIMITS)
        for file in files:
            results = await asyncio.gather(
                decoder.fit(file, None, None, LIMITS), decoder.fit(GOOD[0], None, None, LIMITS), return_exceptions=True
            )
            hostile, innocent = results
            if isinstance(hostile, BaseException):
                assert isinstance(hostile, SafelightError)
                assert (hostile.status, hostile.param) == (400, "image")
            assert innocent == undisturbed
    finally:
        await decoder.stop()


@budget(share=0.1)
@given(st.lists(FILES, min_size=5, max_size=20))
@example([bomb("PNG", 9000), bomb("WEBP", 16_000), bomb("JPEG", 60_000), slow_jpeg(3000), b"", *GOOD])
def test_no_file_costs_an_innocent_one_anything(files: list[bytes]) -> None:
    asyncio.run(fitted(Decoder(timeout_seconds=10.0), files))
