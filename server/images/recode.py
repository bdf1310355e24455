"""Makes of the file that a provider sent one that a caller may get: decoded, of the size asked for, written anew.

Knows bytes and Pillow; knows no provider and no wire. Blocking; call it in the decoder process.
Invariant: nothing of the file but its pixels comes out, in a file that our own writer wrote.
"""

from __future__ import annotations

from pipelines.messages import OutputFormat
from pipelines.picture_file import write
from server.core.request import Size
from server.images.decode import UnusablePicture, covering, decode_image, on_white

# No provider draws as large a picture: 16 megapixels, counted as 4096 x 4096.
MAX_RECODED_PIXELS = 4096 * 4096
MAX_RECODED_BYTES = 64 * 1024 * 1024
TRANSPARENT_FORMATS: tuple[OutputFormat, ...] = ("png", "webp")


def judge_length(file: bytes) -> None:
    """Raises UnusablePicture. For whoever holds the file first, so that a huge one is never sent about."""
    if len(file) > MAX_RECODED_BYTES:
        raise UnusablePicture(f"has more than {MAX_RECODED_BYTES // 1024**2} MiB")


def recode(file: bytes, size: Size, output: OutputFormat, compression: int, keeps_alpha: bool) -> bytes:
    """A file without metadata, of the pixels that a viewer shows. Raises UnusablePicture.

    A picture of another size is scaled (Lanczos) until it covers the size, then cropped to its middle. compression: as
    `pipelines.messages.Output` has it. keeps_alpha: what is transparent stays so in png and webp; else it is laid on
    white, as it always is in jpeg.
    """
    image = covering(decode_image(file, MAX_RECODED_PIXELS), size)
    is_kept = keeps_alpha and output in TRANSPARENT_FORMATS
    return write(image if is_kept else on_white(image), output, compression)
