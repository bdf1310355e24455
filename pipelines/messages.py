"""What crosses the process boundary between the server and a worker.

Knows plain frozen data; knows no tensors, no HTTP and no event loop. Imports no torch.
Invariant: each message is MessagePack, and names its own kind; nothing is ever unpickled.
"""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from pipelines.figures import DeviceMemory, ModelFigures, Timeline, WorkFigures
from pipelines.framing import decoded, framed

# `checkpoint` is the sampler that the model's own configuration names.
SamplerName = Literal[
    "checkpoint",
    "euler",
    "euler_a",
    "ddim",
    "dpmpp_2m",
    "dpmpp_2m_karras",
    "dpmpp_2m_sde",
    "unipc",
    "heun",
    "lcm",
    "flow_euler",
]
FamilyName = Literal["sdxl", "sd21", "flux"]
DIFFUSION_SAMPLERS: tuple[SamplerName, ...] = tuple(name for name in get_args(SamplerName) if name != "flow_euler")
# What a family can be sampled with: noise prediction and flow matching have no sampler in common.
SAMPLERS_BY_FAMILY: dict[FamilyName, tuple[SamplerName, ...]] = {
    "sdxl": DIFFUSION_SAMPLERS,
    "sd21": DIFFUSION_SAMPLERS,
    "flux": ("checkpoint", "flow_euler"),
}
# Latent consistency models are distilled from 50 steps, of which a run takes some: there are no more to take.
MAX_LCM_STEPS = 50
Policy = Literal["fair", "fifo"]
FailureCode = Literal[
    "generation_failed",
    "insufficient_memory",
    "model_unavailable",
    "adapter_unavailable",
    "control_unavailable",
    "check_unavailable",
]
# What a hint beside the prompt is a picture of: edges, white on black; or distances, near is light.
ControlKind = Literal["canny", "depth"]
OutputFormat = Literal["png", "jpeg", "webp"]
# on_demand: a model comes when it is asked for, and leaves when others need the room. at_start: it also comes at the
# start. keep: at the start, and leaves after all others. pin: at the start, and never leaves.
Loading = Literal["on_demand", "at_start", "keep", "pin"]
DtypeName = Literal["float32", "bfloat16", "float16"]
# full: all weights on the device. float8: the denoiser's take a byte each. offload: they stay in host memory, and
# visit the device block by block.
Fit = Literal["full", "float8", "offload"]
# off; blocks: one of each kind of block; full: the whole denoiser.
Compile = Literal["off", "blocks", "full"]
Attention = Literal["sdpa", "xformers", "flash", "flash3"]
# absent: its files are not there. failed: they cannot be used, or were not brought to the device.
ModelState = Literal["absent", "disk", "host", "loading", "device", "failed"]


class Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """The base of all messages; the class name travels as the tag."""


class ModelSpec(msgspec.Struct, frozen=True):
    """One model that a worker may be asked for: its id, its family and the absolute path of its folder.

    The folder may be a single .safetensors file instead. rest: a diffusers folder for what the first does not hold.
    config: for weights in single files, the name of a published configuration or a folder laid out like one. variant:
    which of a folder's weights, such as fp16. parts: component -> the file or folder that it comes from. is_pulled:
    whether `safelight models pull` puts it there. loading: when it comes to the device, and whether it leaves. dtype,
    fit, attention, compile: how it is held and computed; auto: what is best on the device. loras: the adapters that
    requests may name -> their files; lora_cache_bytes: how much those not in use may keep. controls: the hints that
    requests may bring -> the folder of the ControlNet that reads it, or None where the checkpoint itself was made for
    it.
    """

    id: str
    family: FamilyName
    folder: str
    rest: str | None = None
    config: str | None = None
    variant: str | None = None
    parts: dict[str, str] = msgspec.field(default_factory=dict)
    is_pulled: bool = False
    loading: Loading = "on_demand"
    dtype: DtypeName | Literal["auto"] = "auto"
    fit: Fit | Literal["auto"] = "auto"
    attention: Attention | Literal["auto"] = "auto"
    compile: Compile = "off"
    loras: dict[str, str] = msgspec.field(default_factory=dict)
    lora_cache_bytes: int = 1024 * 1024 * 1024
    controls: dict[ControlKind, str | None] = msgspec.field(default_factory=dict)


class EngineOptions(msgspec.Struct, frozen=True):
    """How a worker schedules and batches.

    policy: `fair`, or `fifo`, the baseline. max_rows: the most rows of one forward. exact_rows: if set, every forward
    is padded to so many rows, and prompts and pictures are encoded and decoded one by one, so that a picture's bytes
    do not depend on what else is drawn. memory_bytes: what jobs may hold together beyond the weights; None is no
    limit on a CPU, and what weights leave on a CUDA device. prompt_cache_bytes: how much the encoded prompts of one
    model may take. weights_memory, host_memory: what weights may take on the device and in the host's memory beside
    it, as amounts; None is a default by device. never_together: groups of models of which one at a time is there.
    safety_checker: the folder of the one that looks at pictures whose jobs want it; None: there is none.
    step_timeout_seconds: no work item counts as hung that takes less.
    """

    policy: Policy = "fair"
    max_rows: int = 16
    exact_rows: int | None = None
    memory_bytes: int | None = None
    prompt_cache_bytes: int = 256 * 1024 * 1024
    weights_memory: str | None = None
    host_memory: str | None = None
    never_together: tuple[tuple[str, ...], ...] = ()
    safety_checker: str | None = None
    step_timeout_seconds: float = 30.0


class Finding(msgspec.Struct, frozen=True):
    """What a look at a model's files says. weights: how many numbers each component holds. loras: adapter -> what is
    wrong with its file, for those that cannot be used; the model itself is served all the same. controls: likewise, by
    kind."""

    id: str
    problem: str | None
    weights: dict[str, int] = msgspec.field(default_factory=dict)
    loras: dict[str, str] = msgspec.field(default_factory=dict)
    controls: dict[ControlKind, str] = msgspec.field(default_factory=dict)


class ModelReport(msgspec.Struct, frozen=True):
    """Where a model is; `problem` is None when it can be served. device_bytes: what of it is on the device, shared
    parts too. is_pinned: it stays there. load_seconds: how long it would take to come there; None: nobody knows yet."""

    id: str
    problem: str | None
    state: ModelState = "disk"
    device_bytes: int = 0
    is_pinned: bool = False
    load_seconds: float | None = None


class Start(Message, frozen=True):
    """First message to a worker: what it serves and where."""

    models: tuple[ModelSpec, ...]
    device: str
    threads: int
    heartbeat_seconds: float
    options: EngineOptions = EngineOptions()


class Lora(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An adapter of the model by its name, and how strongly it acts: 0 is not at all, 1 as it was trained."""

    name: str
    scale: float


class Control(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A hint beside the prompt, and how strongly it acts.

    hint: width x height x 3 bytes of RGB, row by row. scale: 0 is not at all, 1 as trained. start, end: the shares of
    the job's own denoise steps between which it acts, 0 <= start < end <= 1.
    """

    kind: ControlKind
    hint: bytes
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0


class DrawParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What decides a picture. The seed is fixed by the server, so that a second try draws the same one.

    Sizes are pixels; guidance_scale <= 1 means no guidance; seed 0 to 2**64 - 1; a negative_prompt of None is not the
    empty one: a checkpoint may ask for zeros in its place. image: the picture to start from, width x height x 3 bytes
    of RGB, row by row. mask: width x height bytes beside an image, 128 and above where it may change. strength: in
    (0, 1], how much of the noise schedule an image goes through; without an image it means nothing. loras: the adapters
    that act, each once; their order is of no effect. control: a hint that the model takes, in the picture's size.
    """

    prompt: str
    negative_prompt: str | None
    width_px: int
    height_px: int
    steps: int
    guidance_scale: float
    sampler: SamplerName
    seed: int
    image: bytes | None = None
    mask: bytes | None = None
    strength: float = 1.0
    loras: tuple[Lora, ...] = ()
    control: Control | None = None


# What is told of a picture, by name.
Facts = dict[str, str | int | float]


class Output(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a picture is written. compression: 0 to 100, OpenAI's output_compression, where 100 is the best quality and
    the largest file; for jpeg and webp, without effect for png. facts: how the picture came about, written into the
    file; none if empty."""

    format: OutputFormat = "png"
    compression: int = 100
    facts: Facts = msgspec.field(default_factory=dict)


class Submit(Message, frozen=True):
    """One image to draw with one model. caller: whose share of the device it takes. preview_steps: after which denoise
    steps (from 1) a Preview is wanted. output: how the picture is written, and the previews too, but without facts.
    is_checked: whether the safety checker must let the picture pass. runs_alone: it shares no work item, as it is
    suspected of a worker's death."""

    job_id: str
    model: str
    params: DrawParams
    caller: str = ""
    priority: int = 0
    wants_progress: bool = False
    preview_steps: tuple[int, ...] = ()
    output: Output = Output()
    is_checked: bool = False
    runs_alone: bool = False


class Cancel(Message, frozen=True):
    """Stop a job before its next step. Unknown and finished jobs are no error."""

    job_id: str


class Load(Message, frozen=True):
    """Bring a model to the device, or look again at one that had failed."""

    model: str


class Unload(Message, frozen=True):
    """Let a model go, once no job works with it."""

    model: str


class Pin(Message, frozen=True):
    """Keep a model on the device whatever comes, or no longer."""

    model: str
    is_pinned: bool


class Serve(Message, frozen=True):
    """The models from now on. leaving: those that jobs may still ask for, and that go once none does; all others go
    once no job has them any more. A model that is known already is the same as before, but for its `loading`."""

    models: tuple[ModelSpec, ...]
    leaving: tuple[ModelSpec, ...] = ()
    never_together: tuple[tuple[str, ...], ...] = ()


class Shutdown(Message, frozen=True):
    """End the process now."""


class Ready(Message, frozen=True):
    """First message from a worker: it takes jobs, for every model whose report names no problem."""

    device: str
    models: tuple[ModelReport, ...]


class Residency(Message, frozen=True):
    """Where the models are now; sent when something has changed."""

    models: tuple[ModelReport, ...]


class Heartbeat(Message, frozen=True):
    """Sent at a steady pace by a thread of its own; its absence means that the process hangs."""


class Figures(Message, frozen=True):
    """What the worker has counted since its start; sent about once a second. memory: None where nobody can say."""

    work: tuple[WorkFigures, ...] = ()
    models: tuple[ModelFigures, ...] = ()
    memory: DeviceMemory | None = None


class Queued(Message, frozen=True):
    """The job waits in the worker behind `ahead` others."""

    job_id: str
    ahead: int


class Started(Message, frozen=True):
    """The worker begins with the job: if it dies from now on, the job may be the cause."""

    job_id: str


class Working(Message, frozen=True):
    """These jobs share the work items from now on, until another Working: a worker that dies, dies of one of them."""

    job_ids: tuple[str, ...]


class Hung(Message, frozen=True):
    """The work item of these jobs does not end: it has taken so long, `seconds`, where `limit_seconds` were allowed.
    Whoever reads this had better replace the worker."""

    job_ids: tuple[str, ...]
    seconds: float
    limit_seconds: float


class Progress(Message, frozen=True):
    """`step` of `steps` denoise steps are done."""

    job_id: str
    step: int
    steps: int


class Preview(Message, frozen=True):
    """What the picture will probably be, seen after `step` of `steps` denoise steps."""

    job_id: str
    step: int
    steps: int
    file: bytes


class Image(Message, frozen=True):
    """The job succeeded: the encoded picture, how long the device worked on it, and where its time went. check_ms: how
    long the safety checker looked at it; None where it did not."""

    job_id: str
    file: bytes
    device_seconds: float
    check_ms: int | None = None
    timeline: Timeline | None = None


class Refused(Message, frozen=True):
    """The job succeeded, and the safety checker does not let its picture pass: no byte of it crosses."""

    job_id: str
    device_seconds: float
    check_ms: int
    timeline: Timeline | None = None


class Failed(Message, frozen=True):
    """The job failed, for the stated reason; no other job is concerned. `detail` is for the log, not for callers."""

    job_id: str
    code: FailureCode
    message: str
    detail: str = ""


class Cancelled(Message, frozen=True):
    """The job was cancelled and holds nothing any more."""

    job_id: str


Command = Start | Submit | Cancel | Load | Unload | Pin | Serve | Shutdown
Event = (
    Ready
    | Residency
    | Heartbeat
    | Figures
    | Queued
    | Started
    | Working
    | Hung
    | Progress
    | Preview
    | Image
    | Refused
    | Failed
    | Cancelled
)

_encoder = msgspec.msgpack.Encoder()
_command_decoder: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
_event_decoder: msgspec.msgpack.Decoder[Event] = msgspec.msgpack.Decoder(Event)


def to_body(message: Command | Event) -> bytes:
    """What a frame's header stands before."""
    return _encoder.encode(message)


def to_frame(message: Command | Event) -> bytes:
    return framed(to_body(message))


def to_command(body: bytes) -> Command:
    """Raises FramingError when the body is no command."""
    return decoded(_command_decoder, body)


def to_event(body: bytes) -> Event:
    """Raises FramingError when the body is no event."""
    return decoded(_event_decoder, body)
