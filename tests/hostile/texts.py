"""Hostile prompts, sizes and names of models: what is text, and means something else to whoever is careless."""

from __future__ import annotations

from collections.abc import Iterator

from tests.hostile.case import INVALID, Case, asking, asking_raw, shown

SIZES = (
    *(
        "99999x99999",
        "0x0",
        "512x",
        "x512",
        "512",
        "512X512",
        "\uff15\uff11\uff12x\uff15\uff11\uff12",
        "65x64",
        "64x65",
    ),
    *(
        "1024x64x64",
        "x",
        "",
        " 64x64",
        "64x64 ",
        "64x64\n",
        "64 x 64",
        "-64x64",
        "+64x64",
        "64x-64",
        "6e1x64",
        "0x40x64",
    ),
    *("64.0x64", "1_28x128", "64\u00d764", "\u0666\u0664x\u0666\u0664", "63x63", "2048x512", "512x2048", "1040x1024"),
    *(
        "100000x10000",
        "64*64",
        "auto ",
        "AUTO",
        "64x64;rm",
        "64x64\0",
        "9" * 5000 + "x64",
        "64x" + "9" * 5000,
        "1e9x1e9",
    ),
    *("064x064", "%36%34x64", "64x64,64x64", "NaNxNaN", "nullxnull", "64\u200bx64", "{0}x{1}", "64x64" * 1000),
)
PROMPTS_REFUSED = {
    "empty": '""',
    "spaces": '"   "',
    "white space of other alphabets": '"\\u2003\\u00a0\\u3000"',
    "line ends": '"\\n\\r\\t"',
    "NUL": '"a\\u0000b"',
    "a lone high surrogate": '"\\ud800"',
    "a lone low surrogate": '"a\\udfffb"',
    "surrogates in the wrong order": '"\\ude00\\ud83d"',
    "32,001 characters": '"' + "x" * 32_001 + '"',
    "a megabyte": '"' + "x" * 1_000_000 + '"',
    "an array of texts": '["a", "b"]',
    "an object": '{"text": "a"}',
}
PROMPTS_SERVED = {
    "32,000 emoji": "\U0001f600" * 32_000,
    "32,000 letters": "x" * 32_000,
    "right to left, and overrides": "\u202ea red circle\u202c",
    "combining marks": "e" + "\u0301" * 5000,
    "no character of any alphabet": "\ue000\uffff\U0010fffd",
    "words that end a text for models": "<|endoftext|> <|startoftext|> </s> <pad>",
    "templates": "{prompt} {0} {__class__} %s %n ${x} {{7*7}}",
    "markup and queries": "<script>alert(1)</script> '; DROP TABLE ledger_entries; --",
    "paths and shells": "../../etc/passwd $(reboot) `reboot` && reboot",
    "control characters": "a\x01\x02\x1b[31mred\x7f",
    "one space and a letter": " a",
    "a format of weights": "(red:1.5) [blue] <lora:x:1> AND BREAK",
    "a byte order mark": "\ufeffa red circle",
}
MODELS = (
    *("no-such-model", "../../etc/passwd", "", " ", "demo/../demo", "demo ", "DEMO", "demo\n", "x" * 10_000),
    *(
        "..",
        ".",
        "/",
        "file:///etc/passwd",
        "\\\\host\\share",
        "demo%00",
        "*",
        "dall-e-*",
        "gpt-image-1.5-*",
        "__class__",
    ),
    *("{}", "null", "\u0434emo", "demo\u200b", "~root", "C:\\", "%2e%2e%2f", "\U0001f600", "hf.co/a/b", "a/b/c" * 500),
)


def cases() -> Iterator[Case]:
    for size in SIZES:
        yield Case("sizes", shown(size), asking(size=size), 400, INVALID, "size")
    for name, text in PROMPTS_REFUSED.items():
        yield Case("prompts", name, asking_raw("prompt", text), 400, INVALID, "prompt")
    for name, prompt in PROMPTS_SERVED.items():
        yield Case("prompts", name, asking(prompt=prompt, response_format="b64_json"), 200, pictures=1)
    yield Case(
        "prompts",
        "another one that is not wanted",
        asking_raw("negative_prompt", '"\\ud800"'),
        400,
        INVALID,
        "negative_prompt",
    )
    for model in MODELS:
        yield Case("models", f"'{shown(model)}'", asking(model=model), 404, "model_not_found", "model")
    yield Case("models", "a lone surrogate", asking_raw("model", '"\\ud800"'), 400, INVALID, "model")
    yield Case("models", "NUL", asking(model="demo\0"), 400, INVALID, "model")
