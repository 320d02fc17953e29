"""What formats cost on a device, measured: products of a model's shapes, and the whole in one format."""

import contextlib
import math
import os
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any, cast

import numpy as np

from kl_lens_desktop.bench.devices import describe
from kl_lens_desktop.bench.jobs import (
    PricesJob,
    ProductOrder,
    ProductsJob,
    SpeedJob,
    SpeedOrder,
    TimedProduct,
    TimedRound,
)
from kl_lens_desktop.bench.memory import device_memory_mb, private_mb
from kl_lens_desktop.bench.noise import QUANTILE
from kl_lens_desktop.bench.settings import Benchmark
from kl_lens_desktop.bench.static_model import needs_fixed_shapes
from kl_lens_desktop.disk_space import room_for
from kl_lens_desktop.errors import ChildError, InputError
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.plan.device_limits import is_distrusted
from kl_lens_desktop.plan.prices import (
    DeviceKey,
    ModelPrices,
    Prices,
    Product,
    Whole,
    load_prices,
    products_of,
    save_prices,
)
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.child import Child
from kl_lens_desktop.process.events import Answer, Event, Note, Progress
from kl_lens_desktop.process.record import decode
from kl_lens_desktop.quant.formats import Format, all_formats, parse_format, stored_bytes
from kl_lens_desktop.sensitivity.jobs import ANCHOR, MENU
from kl_lens_desktop.temporary import temporary_folder

STAGE = "prices"
# Of every kind a format: what of a kind is unpacked is so in all its groups.
OF_EACH_KIND = (
    "int8_sym",
    "int8_asym",
    "int4_sym_g64",
    "int4_asym_g64",
    "nf4_g64",
    "int3_sym_g64",
    "int2_sym_g64",
)
_MOST_SHAPES = 4
_BRIEF_SHAPES = 2
_COVERED = 0.97  # of what a token multiplies, by the shapes that are measured
_READ = 48 * 2**20  # bytes: more than the caches of a laptop hold
_MOST_COPIES = 64
_SECONDS, _LEAST_CALLS = 0.2, 12
_MOST_TRIES, _CALM = 8, 1.1  # a try is calm whose median call takes at most so many times the lower decile
_LIMIT_S = 300.0
_ROUNDS = 4  # of the whole model
# Freed memory goes back to the system at once, else what a matrix takes could not be told (Linux).
_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def measure_prices(local: LocalModel, job: PricesJob, cancel: Cancel) -> Iterator[Event]:
    """Measure what is not known yet; yield last Finished with `jobs.Priced`.

    Raises
    ------
    InputError
        If the device cannot be asked, or runs fixed shapes only.
    """
    import openvino

    from kl_lens_desktop.model.checkpoint import weights_sha256
    from kl_lens_desktop.model.inventory import inventory
    from kl_lens_desktop.model.load import open_model

    yield Progress(STAGE, 0, 0, "Opening the model")
    name = job.device.strip().upper()
    core = openvino.Core()
    if name not in core.available_devices or needs_fixed_shapes(name):
        known = [each for each in core.available_devices if not needs_fixed_shapes(each)]
        raise InputError(
            f"Cannot measure prices on {job.device}",
            "OpenVINO does not find it here, or it runs graphs of fixed shapes only",
            f"Choose {' or '.join(known)}",
        )
    key, loaded = _key(core, name), open_model(local.folder)
    weights = [weight.as_dict() for weight in inventory(loaded.model)]
    sha256 = weights_sha256(loaded.files)
    prices = load_prices(key)
    chosen = _experts_chosen(loaded.model.config)
    asked = {*(OF_EACH_KIND if job.brief else job.formats or ("fp16", *MENU)), ANCHOR}
    formats = [
        parse_format(each) for each in all_formats() if each in asked and not is_distrusted(name, each)
    ]
    shapes = _shapes(weights, chosen)[: _BRIEF_SHAPES if job.brief else None]
    parameters = sum(w["parameters"] for w in weights if w["kind"] != "conv")
    wanted = [(*shape, fmt) for fmt in formats for shape in shapes]
    timed = {(p.rows, p.columns, p.format) for p in prices.products}
    lacking = [each for each in wanted if job.again or (each[0], each[1], each[2].name) not in timed]
    prices = yield from _with_products(prices, lacking, parameters, cancel)
    if (job.again or prices.model(sha256) is None) and not job.brief:
        seconds, memory = yield from _whole(local, loaded, name, cancel)
        prices = prices.with_model(Whole(sha256, ANCHOR, seconds, memory, chosen))
        save_prices(prices)
    found = ModelPrices(prices, weights, chosen, prices.model(sha256))
    rest = found.rest() if found.whole else None
    yield Progress(STAGE, 1, 1, "Measured")
    yield job.finished({
        "device": name,
        "sha256": sha256,
        "formats": [
            {"format": each, "bytes": size, "seconds": price.seconds, "memory": price.memory}
            for each, size, price in found.table()
        ],
        "wasteful": list(found.wasteful()),
        "rest": {"seconds": rest.seconds, "memory": rest.memory} if rest else None,
    })  # fmt: skip


def time_products(job: ProductsJob, cancel: Cancel) -> Iterator[Event]:
    """Yield an Answer to each `jobs.ProductOrder`, and one before the first."""
    import openvino

    core = openvino.Core()
    idle = _seconds_of(_request(core, _nothing(), job.device), cancel)
    yield Answer({})
    while True:
        order = decode(ProductOrder, cancel.next_order())
        yield Answer(cast(dict[str, Any], _timed(core, job.device, order, idle, cancel)))


def _timed(core: Any, device: str, order: ProductOrder, idle: float, cancel: Cancel) -> TimedProduct:
    from kl_lens_desktop.export.stand_in import StandIns

    fmt, held = parse_format(order.format), StandIns()
    graph = _products(held, order, fmt)
    before = _memory(core, device)
    request = _request(core, graph, device)
    seconds = _seconds_of(request, cancel)
    stored = stored_bytes((order.rows, order.columns), fmt)
    # Weights that a plugin reads where they lie are not set aside, and take what they take.
    memory = max(_memory(core, device) - before, order.copies * stored)
    del request, graph, held
    return {"seconds": max(seconds - idle, 1e-7) / order.copies, "memory": int(memory / order.copies)}


def _products(held: Any, order: ProductOrder, fmt: Format) -> Any:
    """A token for each copy of a weight, and the sum of what comes of them."""
    import openvino as ov
    from openvino import opset13 as ops

    given = ops.parameter([1, order.copies, order.columns], np.float32)
    tokens = ops.split(given, ops.constant(np.int64(1)), order.copies)
    made = []
    for token in tokens.outputs():
        weight = held.weight((order.rows, order.columns), fmt)
        made.append(ops.matmul(token, weight, False, True))
    total = made[0]
    for each in made[1:]:
        total = ops.add(each, total)
    graph = ov.Model([ops.result(total)], [given])
    graph.validate_nodes_and_infer_types()
    return graph


def _nothing() -> Any:
    import openvino as ov
    from openvino import opset13 as ops

    given = ops.parameter([1, 1, 64], np.float32)
    return ov.Model([ops.relu(given)], [given])


def _request(core: Any, graph: Any, device: str) -> Any:
    request = core.compile_model(graph, device).create_infer_request()
    size = list(request.model_inputs[0].shape)
    import openvino as ov

    request.set_input_tensor(ov.Tensor(np.random.default_rng(0).normal(0, 1, size).astype(np.float32)))
    return request


def _seconds_of(request: Any, cancel: Cancel) -> float:
    """The lower decile of a call's time, as of a round of the benchmark.

    Of several tries the best, while other programs disturb them.
    """
    request.infer()
    best = math.inf
    for _ in range(_MOST_TRIES):
        times: list[float] = []
        until = time.perf_counter() + _SECONDS
        while len(times) < _LEAST_CALLS or time.perf_counter() < until:
            started = time.perf_counter()
            request.infer()
            times.append(time.perf_counter() - started)
            cancel.check()
        low, middle = (float(quantile) for quantile in np.quantile(times, (QUANTILE, 0.5)))
        best = min(best, low)
        if middle < _CALM * low:
            break
    return best


def _memory(core: Any, device: str) -> float:
    """Bytes that this process holds, and the device for it."""
    return 2**20 * (private_mb() + sum((device_memory_mb(core, device) or {}).values()))


def _key(core: Any, name: str) -> DeviceKey:
    device = describe(core, name)
    return DeviceKey(name, device.full_name, device.driver or "", version("openvino"), os.cpu_count() or 1)


def _experts_chosen(config: Any) -> int:
    """How many experts of a layer a token passes; 0 without experts."""
    return int(getattr(config.get_text_config(), "num_experts_per_tok", 0) or 0)


def _shapes(weights: Sequence[Mapping[str, Any]], chosen: int) -> list[tuple[int, int]]:
    """Those that make up most of what a token multiplies, largest share first."""
    shares: Counter[tuple[int, int]] = Counter()
    for weight in weights:
        if weight["kind"] != "conv":
            rows, columns = weight["shape"][-2:]
            shares[rows, columns] += products_of(weight, chosen) * rows * columns
    total, covered, found = sum(shares.values()), 0, []
    for shape, share in shares.most_common(_MOST_SHAPES):
        if share and covered < _COVERED * total:
            found.append(shape)
            covered += share
    return found


def _with_products(
    prices: Prices, lacking: Sequence[tuple[int, int, Format]], parameters: int, cancel: Cancel
) -> Generator[Event, None, Prices]:
    """The prices with the products that they lack: rows, columns and format of each.

    Each is timed while as much is read as a model of so many parameters takes, up to more than caches hold.
    """
    found: list[Product] = []
    child: Child | None = None
    try:
        for number, (rows, columns, fmt) in enumerate(lacking):
            yield Progress(STAGE, number, len(lacking), f"Timing products in {fmt.label}", "products")
            stored = stored_bytes((rows, columns), fmt)
            read = min(_READ, parameters * fmt.bits / 8)
            copies = min(max(math.ceil(read / stored), 1), _MOST_COPIES)
            try:
                if child is None:
                    child = Child(
                        ProductsJob(prices.key.device), time_limit_s=_LIMIT_S, environment=_ENVIRONMENT
                    )
                    yield from child.answered(cancel, passing=Note)
                order = ProductOrder(rows, columns, fmt.name, copies)
                answer = cast(TimedProduct, (yield from child.answered(cancel, order, passing=Note)))
                found.append(Product(rows, columns, fmt.name, answer["seconds"], answer["memory"]))
            except ChildError as error:
                yield Note(f"{prices.key.device} does not run {fmt.label}: {error.why}", "warning")
                if child is not None:
                    child.close()
                child = None
    finally:
        if child is not None:
            child.close()
    if found:
        prices = prices.with_products(found)
        save_prices(prices)
    return prices


def _whole(
    local: LocalModel, loaded: Any, device: str, cancel: Cancel
) -> Generator[Event, None, tuple[float, int]]:
    """Seconds of a token and bytes of memory of the model in `ANCHOR`, timed as the benchmark does."""
    from kl_lens_desktop.export.speed_sample import write_speed_sample
    from kl_lens_desktop.model.inventory import inventory, kept_bytes, quantizable

    yield Progress(STAGE, 0, 0, "Timing the whole model")
    weights = inventory(loaded.model)
    size = kept_bytes(loaded.model, weights)
    size += sum(stored_bytes(each.shape, parse_format(ANCHOR)) for each in quantizable(weights))
    usual = replace(Benchmark(), repeats=2)
    speeds, memory = [], 0.0
    with temporary_folder() as folder, room_for("a sample of the model", size, folder):
        write_speed_sample(local.folder, loaded, ANCHOR, folder, cancel)
        job = SpeedJob(folder, device, usual.prompt_tokens, usual.new_tokens)
        with contextlib.closing(Child(job, time_limit_s=_LIMIT_S)) as child:
            yield from child.answered(cancel, passing=Note)
            for _ in range(_ROUNDS):
                order = SpeedOrder(usual.prompt_tokens, usual.new_tokens, usual.repeats, usual.turn_s)
                turn = cast(TimedRound, (yield from child.answered(cancel, order, passing=Note)))
                speeds.append(turn["round"]["tokens_per_s"])
                device_mb = sum((turn["gpu_memory_mb"] or {}).values())
                memory = max(memory, 2**20 * (turn["private_mb"] + device_mb))
    return 1 / max(speeds), int(memory)
