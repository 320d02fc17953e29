"""The jobs of the benchmark: the whole, and what each of its child processes does.

Needs neither torch nor OpenVINO until a job runs.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NotRequired, TypedDict

from kl_lens_desktop.bench.figures import Mean
from kl_lens_desktop.bench.settings import Benchmark
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event
from kl_lens_desktop.process.job import Job


class Benched(TypedDict):
    """Path of the bench file, and how many rows it holds."""

    path: str
    rows: int


@dataclass(frozen=True, slots=True)
class BenchJob(Job[Benched]):
    """Measure exported folders side by side.

    Attributes
    ----------
    folders : tuple of Path
        IR folders. The one that is all FP16 is what the others of its model are compared with.
    out : Path
        The bench file, written anew after each row, so that an interrupted run keeps its finished rows.
    devices : tuple of str, optional
        OpenVINO names; without them all that OpenVINO reports, the kinds that are missing as unavailable, and
        the settings' combinations.
    benchmark : Benchmark
    gguf : tuple of Path
        Files to time with llama.cpp for comparison.
    llama_bench : Path, optional
        llama.cpp's program for that; the one in PATH without it.
    """

    NAME: ClassVar[str] = "bench"
    LONG: ClassVar[bool] = True

    folders: tuple[Path, ...]
    out: Path
    devices: tuple[str, ...] | None = None
    benchmark: Benchmark = field(default_factory=Benchmark)
    gguf: tuple[Path, ...] = ()
    llama_bench: Path | None = None

    def writes(self) -> set[Path]:
        return {self.out}

    def check(self) -> None:
        from kl_lens_desktop.bench.devices import check_device_name
        from kl_lens_desktop.bench.variants import find_variants
        from kl_lens_desktop.errors import InputError
        from kl_lens_desktop.files import check_writable

        self.benchmark.check()
        for name in (*(self.devices or ()), *self.benchmark.combinations):
            check_device_name(name)
        find_variants(self.folders)
        for path in self.gguf:
            if not path.is_file():
                raise InputError(f"Cannot time {path}", "there is no such file", "Check the name")
        if len({path.name for path in self.gguf}) < len(self.gguf):
            why = "two GGUF files have one name"
            raise InputError("Cannot time llama.cpp", why, "Rename one of them")
        check_writable(self.out.absolute().parent)

    def run(self, cancel: Cancel) -> Iterator[Event]:
        from kl_lens_desktop.bench.lab import bench

        yield from bench(self, cancel)


class Loaded(TypedDict):
    """A variant opened on a device: milliseconds to read and compile it, and the settings in force."""

    load_ms: float
    backend: str
    settings: dict[str, Any]


class TimedRound(TypedDict):
    """A round of timed generations.

    ``samples`` holds each generation's ``tokens_per_s`` (decode: one over the mean time between tokens),
    ``ttft_ms`` (from ids to the first new id) and ``prefill_tokens_per_s`` (prompt tokens over time to first
    token); ``round`` the same three of the round as a whole (see `bench.noise`). Memory: see `bench.memory`.
    """

    samples: dict[str, list[float]]
    round: dict[str, float]
    peak_rss_mb: float | None
    private_mb: float
    system_used_change_mb: float
    gpu_memory_mb: dict[str, float] | None


@dataclass(frozen=True, slots=True)
class SpeedOrder:
    """One round: how many prompts of how many tokens; none begins after so many seconds."""

    prompt_tokens: int
    new_tokens: int
    repeats: int
    seconds: float


@dataclass(frozen=True, slots=True)
class SpeedJob(Job[None]):
    """Hold a variant in an `openvino_genai.LLMPipeline` at the device's defaults and time it on order.

    Its first answer is `Loaded`; then it answers each `SpeedOrder` with a `TimedRound`.

    Attributes
    ----------
    folder, device
        The variant, and where.
    prompt_tokens, new_tokens : int
        The most that orders will ask for.
    text : Path, optional
        To take prompts from; the bundled held-out text without it.
    backend : str
        Of the pipeline; empty for the one that it takes by itself.
    """

    NAME: ClassVar[str] = "bench-speed"

    folder: Path
    device: str
    prompt_tokens: int
    new_tokens: int
    text: Path | None = None
    backend: str = ""

    def run(self, cancel: Cancel) -> Iterator[Event]:
        from kl_lens_desktop.bench.speed import time_on_order

        yield from time_on_order(self, cancel)


class Requests(TypedDict):
    """Plain requests timed: ``samples`` and ``round`` as of `TimedRound`."""

    samples: dict[str, list[float]]
    round: dict[str, float]
    read_ms: float
    compile_ms: float
    bytes_per_token: int
    execution_devices: Any


@dataclass(frozen=True, slots=True)
class RequestsJob(Job[Requests]):
    """Time a variant by plain inference requests, each prompt in one call and greedy decoding by hand."""

    NAME: ClassVar[str] = "bench-raw"

    folder: Path
    device: str
    prompt_tokens: int
    new_tokens: int
    repeats: int
    text: Path | None = None

    def run(self, cancel: Cancel) -> Iterator[Event]:
        from kl_lens_desktop.bench.speed import time_requests

        yield from time_requests(self, cancel)


class LoadedFromCache(TypedDict):
    """Milliseconds to load, and the bytes of the cache."""

    load_ms: float
    cache_bytes: int


@dataclass(frozen=True, slots=True)
class LoadJob(Job[LoadedFromCache]):
    """Time loading with OpenVINO's model cache in the folder `cache`, which is filled if it is empty."""

    NAME: ClassVar[str] = "bench-load"

    folder: Path
    device: str
    cache: Path
    prompt_tokens: int
    new_tokens: int
    backend: str = ""

    def run(self, cancel: Cancel) -> Iterator[Event]:
        from kl_lens_desktop.bench.speed import time_loading

        yield from time_loading(self, cancel)


class Gate(TypedDict):
    """How right a device's answers are: see `bench.fidelity.fidelity`."""

    relative_difference: float | None
    bound: float
    ok: bool
    kl: float | None
    top1_agreement: float | None
    torch_difference: NotRequired[float | None]
    strict_difference: NotRequired[float | None]
    strict_bound: NotRequired[float]


class Quality(TypedDict):
    """What a variant predicts on a device: every figure is over the predicted tokens, in nats,
    and None where it is no number.

    ``kl_to_fp16`` is KL(fp16‖variant); it, ``kl_reverse``, ``delta_ce`` and ``top1_agreement`` are None
    without a reference, and ``word_perplexity`` is but for WikiText.
    """

    nats_per_token: Mean | None
    perplexity: Mean | None
    word_perplexity: Mean | None
    kl_to_fp16: Mean | None
    kl_reverse: Mean | None
    delta_ce: Mean | None
    top1_agreement: Mean | None
    fidelity: Gate
    settings: dict[str, Any]


@dataclass(frozen=True, slots=True)
class QualityJob(Job[Quality]):
    """Measure what a variant predicts on a device: perplexity, and divergence from FP16 on CPU in f32.

    Attributes
    ----------
    tokens, chunk, precision, text, window, stride
        As of `Benchmark`.
    reference : Path, optional
        The FP16 variant's folder.
    """

    NAME: ClassVar[str] = "bench-quality"

    folder: Path
    device: str
    tokens: int
    chunk: int
    precision: str
    text: Path | None = None
    window: int | None = None
    stride: int | None = None
    reference: Path | None = None

    def run(self, cancel: Cancel) -> Iterator[Event]:
        from kl_lens_desktop.bench.quality import measure_quality

        yield from measure_quality(self, cancel)


class MemoryRead(TypedDict):
    """The fastest read, in 10^9 bytes a second."""

    gb_s: float


@dataclass(frozen=True, slots=True)
class MemoryReadJob(Job[MemoryRead]):
    """Time how fast this computer reads memory."""

    NAME: ClassVar[str] = "memory-read"

    def run(self, cancel: Cancel) -> Iterator[Event]:
        from kl_lens_desktop.bench.bandwidth import read_memory

        yield from read_memory(self, cancel)


class LlamaTimes(TypedDict):
    """What llama-bench measured: each repetition's speeds, and of what, on which backends."""

    tokens_per_s: list[float]
    prefill_tokens_per_s: list[float]
    model: str
    backend: str
    threads: int
    build: str


@dataclass(frozen=True, slots=True)
class LlamaJob(Job[LlamaTimes]):
    """Time a GGUF file with the user's own llama-bench.

    Attributes
    ----------
    gguf : Path
    program : Path, optional
        llama-bench; the one in PATH without it.
    prompt_tokens, new_tokens, repeats : int
        As of `Benchmark`; new tokens are decoded from an empty context.
    """

    NAME: ClassVar[str] = "llama"

    gguf: Path
    program: Path | None
    prompt_tokens: int
    new_tokens: int
    repeats: int

    def run(self, cancel: Cancel) -> Iterator[Event]:
        from kl_lens_desktop.bench.llama import time_llama

        yield from time_llama(self, cancel)


class Priced(TypedDict):
    """Prices of a model on a device: see `plan.prices.ModelPrices.table` for ``formats``.

    ``sha256`` is of the model's weights, and ``rest`` what it takes beside them. After a brief
    measurement there are neither ``formats`` nor ``rest``.
    """

    device: str
    sha256: str
    formats: list[dict[str, Any]]
    wasteful: list[str]
    rest: dict[str, float] | None


@dataclass(frozen=True, slots=True)
class PricesJob(Job[Priced]):
    """Measure what every format costs a model on a device in time and memory, as far as that is not known.

    Attributes
    ----------
    model : str
        A Hub id, a folder or ``sample``.
    device : str
    again : bool
        Measure what is known too.
    formats : tuple of str
        Those to measure, beside that in which the whole model is timed; without any, all.
    brief : bool
        Measure only what tells which kinds of format pay: one of each, and not the whole model.
    """

    NAME: ClassVar[str] = "prices"
    LONG: ClassVar[bool] = True

    model: str
    device: str = "CPU"
    again: bool = False
    formats: tuple[str, ...] = ()
    brief: bool = False

    def check(self) -> None:
        from kl_lens_desktop.bench.devices import check_device_name
        from kl_lens_desktop.quant.formats import parse_format

        check_device_name(self.device)
        for name in self.formats:
            parse_format(name)

    def run(self, cancel: Cancel) -> Iterator[Event]:
        from kl_lens_desktop.hub.obtain import obtain

        local = yield from obtain(self.model, cancel)

        from kl_lens_desktop.bench.price_probe import measure_prices

        yield from measure_prices(local, self, cancel)


class TimedProduct(TypedDict):
    """Seconds of a matrix times a token, and bytes that the device set aside for the matrix."""

    seconds: float
    memory: int


@dataclass(frozen=True, slots=True)
class ProductOrder:
    """A product to be timed: outputs, inputs, the format, and copies of it that are read in turn."""

    rows: int
    columns: int
    format: str
    copies: int


@dataclass(frozen=True, slots=True)
class ProductsJob(Job[None]):
    """Time products with one token on order: each `ProductOrder` is answered with a `TimedProduct`."""

    NAME: ClassVar[str] = "time-products"

    device: str

    def run(self, cancel: Cancel) -> Iterator[Event]:
        from kl_lens_desktop.bench.price_probe import time_products

        yield from time_products(self, cancel)


class Fidelity(TypedDict):
    """How right a device's answers are."""

    fidelity: Gate


@dataclass(frozen=True, slots=True)
class AnswersJob(Job[Fidelity]):
    """Ask a device, at its own settings, the prompt that an export was compared with torch on."""

    NAME: ClassVar[str] = "answers"

    folder: Path
    device: str

    def run(self, cancel: Cancel) -> Iterator[Event]:
        from kl_lens_desktop.bench.answers import ask

        yield from ask(self, cancel)


class Asked(TypedDict):
    """What a device answered: ``status`` is ``ok``, ``wrong answers …`` or ``failed: …``."""

    device: str
    full_name: str
    status: str
    fidelity: Gate | None


class Devices(TypedDict):
    """Each `bench.devices.Device` as JSON; none after a trial that went well."""

    devices: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class DevicesJob(Job[Devices]):
    """Ask OpenVINO for its devices or, where one is named to `probe`, run a small model on it."""

    NAME: ClassVar[str] = "devices"

    probe: str = ""

    def run(self, cancel: Cancel) -> Iterator[Event]:
        from kl_lens_desktop.bench.devices import find_devices

        yield from find_devices(self, cancel)


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat: `role` is ``user`` or ``assistant``."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class ChatOrder:
    """The messages so far, the last of them a person's; without messages, it only ends the answer before."""

    messages: tuple[Message, ...] = ()
    new_tokens: int = 256


class Opened(TypedDict):
    """A variant that is ready to answer: whether it has a chat template, and the attention backend."""

    template: bool
    backend: str


class ChatTurn(TypedDict):
    """An answer: its tokens as texts, its speed (None of fewer than two tokens), and whether it was ended."""

    tokens: list[str]
    tokens_per_s: float | None
    ttft_ms: float
    stopped: bool


@dataclass(frozen=True, slots=True)
class ChatJob(Job[None]):
    """Hold a variant in an `openvino_genai.LLMPipeline` and answer with the most likely tokens.

    Its first answer is `Opened`; then it answers each `ChatOrder` with `Generated` pieces and a `ChatTurn`.
    An order that comes meanwhile ends the answer.

    Attributes
    ----------
    folder, device
        The variant, and where.
    variant : str
        The name that the events carry; the folder's without it.
    """

    NAME: ClassVar[str] = "chat"

    folder: Path
    device: str
    variant: str = ""

    def run(self, cancel: Cancel) -> Iterator[Event]:
        from kl_lens_desktop.bench.chat import chat

        yield from chat(self, cancel)
