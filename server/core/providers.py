"""Other people's image services, as models.yaml names them: where they are, which of their models, at what price.

Knows the file's words for providers; opens no connection and reads no credentials.
Invariant: no credential stands here, only where one is found.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from server.core.errors import did_you_mean
from server.core.strict import Strict

BackendKind = Literal["local", "openai", "bedrock"]
RemoteKind = Literal["openai", "bedrock"]
# How a model upstream is spoken to. compatible: another server with this contract, which takes all that Safelight does.
Form = Literal["gpt-image", "dall-e-3", "dall-e-2", "compatible", "titan", "stability"]
FORMS_BY_KIND: dict[RemoteKind, tuple[Form, ...]] = {
    "openai": ("gpt-image", "dall-e-3", "dall-e-2", "compatible"),
    "bedrock": ("titan", "stability"),
}
# The model's name begins with the first; nothing else would be understood upstream.
FORMS_BY_PREFIX: tuple[tuple[str, Form], ...] = (
    ("gpt-image", "gpt-image"),
    ("chatgpt-image", "gpt-image"),
    ("dall-e-3", "dall-e-3"),
    ("dall-e-2", "dall-e-2"),
    ("amazon.titan-image", "titan"),
    ("stability.", "stability"),
)
LOCAL = "local"
OPENAI_URL = "https://api.openai.com/v1"
BASE_URL = re.compile(r"https?://[^\s/?#@]+(/[^\s?#]*)?")
BackendName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]
# It stands in headers and in the books.
ModelName = Annotated[str, Field(pattern=r"^[!-+\--~]{1,100}$")]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")]
PathText = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]+$")]
Usd = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class Target:
    """One place that could serve a name: a backend and its model. Written BACKEND:MODEL; ours is `local`."""

    backend: str
    model: str

    def __str__(self) -> str:
        return f"{self.backend}:{self.model}"


# The older word and the newer one for the same.
EQUAL_QUALITIES = (("standard", "medium"), ("hd", "high"))


def parse_target(text: str) -> Target:
    """Raises ValueError. A model's own name may hold colons."""
    backend, colon, model = text.partition(":")
    if not (backend and colon and model):
        raise ValueError("a target is written BACKEND:MODEL, such as local:sdxl or openai:gpt-image-2")
    return Target(backend, model)


def _url(text: str) -> str:
    if BASE_URL.fullmatch(text) is None:
        raise ValueError("must be an http(s) URL without user, query and fragment")
    return text.rstrip("/")


class Price(Strict):
    """usd: of one picture, where its size and its quality are these; `*` stands for all that no other line names."""

    size: Annotated[str, Field(pattern=r"^([1-9][0-9]{0,4}x[1-9][0-9]{0,4}|\*)$")] = "*"
    quality: Literal["low", "standard", "medium", "high", "hd", "xhigh", "max", "*"] = "*"
    usd: Usd


class TokenPrices(Strict):
    """USD for a million tokens, of models that bill by the tokens their answer names."""

    text_in_usd: Usd
    image_in_usd: Usd
    image_out_usd: Usd


class Life(Strict):
    """Whether a name still lives where it came from. retired: the day of its end. successor: what it became."""

    retired: Annotated[date | None, Field(strict=False)] = None
    successor: str | None = None

    def is_over(self, today: date) -> bool:
        return self.retired is not None and self.retired <= today


class RemoteModel(Life):
    """A model upstream. form: how it is spoken to; known by its name if absent. sizes: what it can draw, where that is
    known to the operator only. prices: the most exact line counts. token_prices: what the answer's tokens cost; then
    `prices` only estimate."""

    form: Form | None = None
    sizes: Annotated[tuple[str, ...], Field(strict=False)] = ()
    prices: Annotated[tuple[Price, ...], Field(strict=False)] = ()
    token_prices: TokenPrices | None = None

    def price_usd(self, size: str, quality: str) -> float:
        """Of one picture, as drawn; the dearest where no line fits, 0 without lines. A line that names the size wins
        over one that names the quality."""
        words = (quality, *(other for pair in EQUAL_QUALITIES if quality in pair for other in pair))
        wanted = (*((size, word) for word in words), (size, "*"), *(("*", word) for word in words), ("*", "*"))
        prices = {(one.size, one.quality): one.usd for one in reversed(self.prices)}
        fitting = next((place for place in wanted if place in prices), None)
        return max(prices.values(), default=0.0) if fitting is None else prices[fitting]


class BackendEntry(Strict):
    """A provider that requests may be handed on to.

    key_variable, key_file: where its key is, an environment variable or a file that none but its owner may read.
    base_url: of an OpenAI-compatible server. region, endpoint_url: of Bedrock. access_variables: the environment
    variables of Bedrock's access key, secret key and, where there is one, session token. credentials_file, profile:
    instead of them, a file as the AWS tools write it. daily_usd: what may be spent here in a day (UTC); no limit of its
    own if absent. timeout_seconds: for one call, of which the request's own deadline may leave less.
    preference_seconds: the operator's thumb on the scale: by how much slower it may be than others and still come
    first.
    """

    kind: RemoteKind
    base_url: Annotated[str, AfterValidator(_url)] | None = None
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")] | None = None
    endpoint_url: Annotated[str, AfterValidator(_url)] | None = None
    key_variable: VariableName | None = None
    key_file: PathText | None = None
    access_variables: Annotated[tuple[VariableName, ...], Field(strict=False, min_length=2, max_length=3)] | None = None
    credentials_file: PathText | None = None
    profile: Annotated[str, Field(min_length=1)] | None = None
    daily_usd: Usd | None = None
    timeout_seconds: float = Field(default=180.0, gt=0, le=3600, allow_inf_nan=False)
    preference_seconds: float = Field(default=0.0, allow_inf_nan=False)
    models: dict[ModelName, RemoteModel] = Field(min_length=1)

    @property
    def forms(self) -> dict[str, Form]:
        """How each of its models is spoken to."""
        found = ((model, form_of(model, entry, self.kind)) for model, entry in self.models.items())
        return {model: form for model, form in found if form is not None}

    @model_validator(mode="after")
    def _is_one_kind(self) -> BackendEntry:
        foreign = OF_BEDROCK if self.kind == "openai" else OF_OPENAI
        strays = [name for name in foreign if getattr(self, name) is not None]
        if strays:
            raise ValueError(f"{strays[0]} means nothing for the kind {self.kind}")
        if self.kind == "bedrock" and self.region is None:
            raise ValueError("needs a region, such as us-west-2")
        return self

    @model_validator(mode="after")
    def _has_one_credential(self) -> BackendEntry:
        if (self.key_variable is not None) and (self.key_file is not None):
            raise ValueError("has a key_variable and a key_file: name one of them")
        if (self.access_variables is not None) and (self.credentials_file is not None):
            raise ValueError("has access_variables and a credentials_file: name one of them")
        if self.profile is not None and self.credentials_file is None:
            raise ValueError("a profile stands in a credentials_file: name that too")
        return self

    @model_validator(mode="after")
    def _models_have_forms(self) -> BackendEntry:
        for model, entry in self.models.items():
            form, allowed = form_of(model, entry, self.kind), FORMS_BY_KIND[self.kind]
            if form not in allowed:
                raise ValueError(f"the model '{model}' needs a form, one of: {', '.join(allowed)}")
        return self


OF_OPENAI = ("base_url", "key_variable", "key_file")
OF_BEDROCK = ("region", "endpoint_url", "access_variables", "credentials_file", "profile")


def form_of(model: str, entry: RemoteModel, kind: RemoteKind) -> Form | None:
    """How to speak to the model: as its entry says, or as its name does."""
    if entry.form is not None:
        return entry.form
    known = next((form for prefix, form in FORMS_BY_PREFIX if model.startswith(prefix)), None)
    return "compatible" if known is None and kind == "openai" else known


class NameEntry(Life):
    """A name that requests may carry, and who serves it: targets in the operator's order. Without a route it is the
    default model. The name may hold * patterns."""

    route: Annotated[tuple[str, ...], Field(strict=False)] = ()
    description: str = ""

    @property
    def targets(self) -> tuple[Target, ...]:
        return tuple(map(parse_target, self.route))


def route_problems(
    name: NameEntry, models: Iterable[str], backends: Mapping[str, BackendEntry]
) -> Iterator[tuple[int, str]]:
    """Its steps that are written wrongly, lead nowhere or stand there twice: their places, from 0, and why."""
    for place, text in enumerate(name.route):
        problem = _step_problem(text, models, backends)
        if problem is not None:
            yield place, problem
        elif text in name.route[:place]:
            yield place, f"'{text}' stands in the route twice"


def _step_problem(text: str, models: Iterable[str], backends: Mapping[str, BackendEntry]) -> str | None:
    try:
        target = parse_target(text)
    except ValueError as problem:
        return str(problem)
    if target.backend == LOCAL:
        known = models
    elif target.backend in backends:
        known = backends[target.backend].models
    else:
        near = did_you_mean(target.backend, [LOCAL, *backends])
        return f"'{target.backend}' is none of the backends.{near}"
    if target.model not in known:
        return f"'{target.backend}' has no model '{target.model}'.{did_you_mean(target.model, known)}"
    return None
