"""Encodes finished pixels as a picture file with its facts, off the thread that owns the device.

Knows pixels, file formats and the names of facts; knows no jobs.
Invariant: the same pixels and the same output give the same bytes; a file holds the facts it was given, or less of the
prompts and a note that says so.

Facts stand in a file twice: as JSON for us (PNG: the text `safelight`; JPEG and WebP: XMP), and as the text
`parameters` that AUTOMATIC1111's web UI writes and many tools read (JPEG and WebP: EXIF's user comment). XMP, because
in a JPEG each kind of metadata has one segment of 64 KB: beside the user comment in EXIF, JSON would halve the room;
XMP is UTF-8 by its standard, the same in both formats, and no viewer shows it as the picture's caption.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from pipelines.messages import Facts, Output
from pipelines.picture_file import write

Pixels = npt.NDArray[np.uint8]
Fact = str | int | float

# What Pillow puts into one segment of a JPEG; that of XMP begins with a name of 29 bytes.
MAX_EXIF_BYTES, MAX_XMP_BYTES = 65_533, 65_533 - 29
CUTTABLE = ("prompt", "negative_prompt")

JSON_KEYWORD, PARAMETERS_KEYWORD = "safelight", "parameters"
XMP_BEGIN = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:safelight="urn:safelight:"><safelight:facts>'
)
XMP_END = '</safelight:facts></rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
# What may not stand in XML as it is, and in JSON stands inside of texts only, where it may be escaped.
ESCAPED_IN_XML = str.maketrans({character: f"\\u{ord(character):04x}" for character in "&<>\ufffe\uffff"})
# What EXIF calls a text of two bytes a unit, big-endian as the EXIF around it.
UNICODE_PREFIX = b"UNICODE\0"

# The names by which the web UI knows our samplers.
SAMPLERS: dict[Fact, str] = {
    "euler": "Euler",
    "euler_a": "Euler a",
    "ddim": "DDIM",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_karras": "DPM++ 2M Karras",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "unipc": "UniPC",
    "heun": "Heun",
    "lcm": "LCM",
    "flow_euler": "Euler",
}


def encode(pixels: Pixels, output: Output) -> bytes:
    """A file of uint8 pixels (H, W, 3). Raises ValueError when it cannot hold them, or the facts."""
    return write(Image.fromarray(pixels), output.format, output.compression, **_metadata(output))


def _metadata(output: Output) -> dict[str, Any]:
    """Pillow's options for the facts."""
    match output.format:
        case "png":
            return {"pnginfo": _png_texts(output.facts)}
        case "jpeg":
            facts = _that_fit(output.facts)
            return {"exif": _exif(facts), "xmp": _xmp(facts)}
        case "webp":
            return {"exif": _exif(output.facts), "xmp": _xmp(output.facts)}


def _png_texts(facts: Facts) -> PngInfo:
    texts = PngInfo()
    if facts:
        texts.add_itxt(JSON_KEYWORD, _json(facts))
    if parameters := parameters_text(facts):
        texts.add_text(PARAMETERS_KEYWORD, parameters)  # as the web UI: tEXt while Latin-1 is enough, else iTXt
    return texts


def _exif(facts: Facts) -> bytes:
    text = parameters_text(facts)
    if not text:
        return b""
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = UNICODE_PREFIX + text.encode("utf-16-be")
    return exif.tobytes()


def _xmp(facts: Facts) -> bytes:
    return f"{XMP_BEGIN}{_json(facts).translate(ESCAPED_IN_XML)}{XMP_END}".encode() if facts else b""


def _json(facts: Facts) -> str:
    return json.dumps(facts, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))


def _that_fit(facts: Facts) -> Facts:
    """All, or with both prompts cut to the greatest length that a JPEG has room for."""
    if _fit(facts):
        return facts
    longest = max(len(str(facts.get(name, ""))) for name in CUTTABLE)
    too_long = bisect_left(range(longest), True, key=lambda length: not _fit(_cut(facts, length)))
    if too_long == 0:
        raise ValueError("a JPEG file has no room for these facts, even without the prompts")
    return _cut(facts, too_long - 1)


def _fit(facts: Facts) -> bool:
    return len(_exif(facts)) <= MAX_EXIF_BYTES and len(_xmp(facts)) <= MAX_XMP_BYTES


def _cut(facts: Facts, length: int) -> Facts:
    prompts: Facts = {name: str(facts[name])[:length] for name in CUTTABLE if name in facts}
    return facts | prompts | {"prompt_is_cut": 1}


def parameters_text(facts: Facts) -> str:
    """The prompt, the negative prompt, and one line of settings; without what the facts do not tell."""
    size = f"{facts['width']}x{facts['height']}" if facts.keys() >= {"width", "height"} else None
    sampler = facts.get("sampler")
    settings = {
        "Steps": facts.get("steps"),
        "Sampler": sampler if sampler is None else SAMPLERS.get(sampler, sampler),
        "CFG scale": facts.get("guidance_scale"),
        "Seed": facts.get("seed"),
        "Size": size,
        "Model hash": facts.get("weights_digest"),
        "Model": facts.get("model"),
    }
    negative_prompt = facts.get("negative_prompt")
    lines = (
        facts.get("prompt"),
        f"Negative prompt: {negative_prompt}" if negative_prompt else None,
        ", ".join(f"{name}: {_setting(value)}" for name, value in settings.items() if value is not None),
    )
    return "\n".join(str(line) for line in lines if line)


def _setting(value: Fact) -> str:
    """In quotes where its own characters would end it; 7.0 is written as 7, as people type it."""
    text = str(value).removesuffix(".0") if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if set(text) & set(",:\n") else text
