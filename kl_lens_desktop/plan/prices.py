"""What a format costs on a device: the time of its products and the memory it takes, as they were measured.

`bench.price_probe` measures; here is what a plan makes of it. A model was timed whole in one format, and
products of some of its shapes in every format: a plan takes the whole's time and memory, and of each weight
the difference between its format and that one.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kl_lens_desktop.errors import InputError
from kl_lens_desktop.files import read_json, write_json
from kl_lens_desktop.home import home
from kl_lens_desktop.process.record import decode, encode
from kl_lens_desktop.quant.formats import parse_format, stored_bytes
from kl_lens_desktop.schema import check_schema

SCHEMA = "kl-lens/prices/1"
UNPACKED = 1.5  # times the memory of a format of more bits: far beyond what differs between two measurements
_FILE_LIMIT = 4 * 2**20
_MOST_MODELS = 50


@dataclass(frozen=True, slots=True)
class Product:
    """A matrix times one token.

    Attributes
    ----------
    rows, columns : int
        Outputs and inputs.
    format : str
    seconds : float
    memory : int
        Bytes that the device sets aside for the matrix.
    """

    rows: int
    columns: int
    format: str
    seconds: float
    memory: int


@dataclass(frozen=True, slots=True)
class Whole:
    """A model with all its weights in one format, as `openvino_genai.LLMPipeline` runs it.

    Attributes
    ----------
    sha256 : str
        Of the weights.
    format : str
    seconds : float
        Of a token after a prompt.
    memory : int
        Peak of the process in bytes.
    chosen : int
        Experts that a token passes in each layer; 0 without experts.
    """

    sha256: str
    format: str
    seconds: float
    memory: int
    chosen: int = 0


@dataclass(frozen=True, slots=True)
class DeviceKey:
    """What must be the same for prices to hold."""

    device: str
    full_name: str
    driver: str
    openvino: str
    threads: int

    @property
    def path(self) -> Path:
        """Where its prices are kept."""
        name = hashlib.sha256(json.dumps(encode(self), sort_keys=True).encode()).hexdigest()[:24]
        return home() / "prices" / f"{name}.json"


@dataclass(frozen=True, slots=True)
class Prices:
    """All that was measured on a device."""

    key: DeviceKey
    products: tuple[Product, ...] = ()
    models: tuple[Whole, ...] = ()

    def with_products(self, found: Iterable[Product]) -> "Prices":
        """With products measured anew in place of earlier ones."""
        table = {(p.rows, p.columns, p.format): p for p in (*self.products, *found)}
        return replace(self, products=tuple(table.values()))

    def with_model(self, found: Whole) -> "Prices":
        others = [model for model in self.models if model.sha256 != found.sha256]
        return replace(self, models=(*others[1 - _MOST_MODELS :], found))

    def model(self, sha256: str) -> Whole | None:
        return next((model for model in self.models if model.sha256 == sha256), None)


@dataclass(frozen=True, slots=True)
class Price:
    """Seconds of a token and bytes of memory that a weight takes in a format."""

    seconds: float
    memory: int


@dataclass(frozen=True, slots=True)
class ModelPrices:
    """What formats cost the weights of one model on one device.

    Parameters
    ----------
    prices : Prices
    weights : sequence of mapping
        As score files list them: ``name``, ``kind``, ``shape`` and ``uses``.
    chosen : int
        Experts that a token passes in each layer; 0 without experts.
    whole : Whole, optional
        Without it nothing is told of a whole plan.
    """

    prices: Prices
    weights: Sequence[Mapping[str, Any]]
    chosen: int = 0
    whole: Whole | None = None
    _known: dict[tuple[int, int, str], Price | None] = field(default_factory=dict, compare=False, repr=False)

    @property
    def device(self) -> str:
        return self.prices.key.device

    @property
    def matrices(self) -> list[Mapping[str, Any]]:
        """The weights that have a format."""
        return [weight for weight in self.weights if weight["kind"] != "conv"]

    def of(self, weight: Mapping[str, Any], name: str) -> Price | None:
        """The price of a format for a weight; None where it was not measured on this device."""
        *experts, rows, columns = weight["shape"]
        one = self._product(rows, columns, name)
        if one is None:
            return None
        return Price(products_of(weight, self.chosen) * one.seconds, math.prod(experts) * one.memory)

    @property
    def formats(self) -> list[str]:
        """What was measured for every shape of the model."""
        names = dict.fromkeys(product.format for product in self.prices.products)
        return [name for name in names if all(self.of(weight, name) for weight in self.matrices)]

    def of_plan(self, assignments: Mapping[str, str]) -> Price | None:
        """Seconds of a token and memory under an assignment; None where something was not measured."""
        if self.whole is None:
            return None
        seconds, memory = self.whole.seconds, self.whole.memory
        for weight in self.matrices:
            had = self.of(weight, self.whole.format)
            has = self.of(weight, assignments.get(weight["name"], "fp16"))
            if had is None or has is None:
                return None
            seconds, memory = seconds + has.seconds - had.seconds, memory + has.memory - had.memory
        return Price(max(seconds, 1e-9), max(memory, 0))

    def rest(self) -> Price:
        """What the model takes beside its weights; differences of measurements may make it negative."""
        assert self.whole is not None
        known = [price for weight in self.matrices if (price := self.of(weight, self.whole.format))]
        return Price(
            self.whole.seconds - sum(price.seconds for price in known),
            self.whole.memory - sum(price.memory for price in known),
        )

    def table(self) -> list[tuple[str, int, Price]]:
        """Of each format that was measured: bytes in the file, and the price, if all weights had it."""
        found = []
        for name in self.formats:
            size = sum(stored_bytes(weight["shape"], parse_format(name)) for weight in self.matrices)
            price = self.of_plan({weight["name"]: name for weight in self.matrices})
            if price is not None:
                found.append((name, size, price))
        return sorted(found, key=lambda row: -row[1])

    def wasteful(self) -> tuple[str, ...]:
        """Formats that only save disk: unpacked when loaded, they take far more memory than one of more bits.

        By memory alone: times differ from one measurement to the next, and with them plans would.
        """
        taken = {
            name: sum(price.memory for weight in self.matrices if (price := self.of(weight, name)))
            for name in self.formats
        }
        return tuple(
            name
            for name, memory in taken.items()
            if any(
                parse_format(other).bits > parse_format(name).bits and UNPACKED * of_other < memory
                for other, of_other in taken.items()
            )
        )

    def _product(self, rows: int, columns: int, name: str) -> Price | None:
        """Measured, or from the measured shapes nearest in size, by elements."""
        key = rows, columns, name
        if key not in self._known:
            self._known[key] = _interpolated(self.prices.products, rows, columns, name)
        return self._known[key]


def products_of(weight: Mapping[str, Any], chosen: int) -> int:
    """How many matrices of a weight a token is multiplied with; of a stack of experts it passes `chosen`.

    An embedding's lookup reads a row, and multiplies nothing.
    """
    stacked = int(math.prod(weight["shape"][:-2]))
    products = int(weight.get("uses", 1)) - int(weight["kind"] == "embedding")
    return products * min(chosen or stacked, stacked)


def _interpolated(products: Iterable[Product], rows: int, columns: int, name: str) -> Price | None:
    same = [product for product in products if product.format == name]
    if not same:
        return None
    for product in same:
        if (product.rows, product.columns) == (rows, columns):
            return Price(product.seconds, product.memory)
    size = rows * columns
    same.sort(key=lambda product: product.rows * product.columns)
    below = [product for product in same if product.rows * product.columns <= size]
    above = [product for product in same if product.rows * product.columns > size]
    memory = same[-1].memory * size / (same[-1].rows * same[-1].columns)
    if not below or not above:
        near = (below or above[:1])[-1]
        return Price(near.seconds * size / (near.rows * near.columns), round(memory))
    low, high = below[-1], above[0]
    first, last = low.rows * low.columns, high.rows * high.columns
    share = (size - first) / (last - first)
    return Price(low.seconds + share * (high.seconds - low.seconds), round(memory))


def load_prices(key: DeviceKey) -> Prices:
    """What was measured on a device; nothing where no file holds it, or a damaged one."""
    found = _read(key.path)
    return found if found and found.key == key else Prices(key)


def save_prices(prices: Prices) -> None:
    """Atomically, where `load_prices` finds them."""
    value = {"schema": SCHEMA, **encode(prices)}
    check_schema(value, SCHEMA, prices.key.path)
    write_json(prices.key.path, value)


def known_prices(device: str, sha256: str, weights: Sequence[Mapping[str, Any]]) -> ModelPrices | None:
    """The latest prices of a model on a device of that name; None where they were not measured here.

    It asks no device, which may take seconds, so it does not see that a driver has changed. With another
    OpenVINO than the one installed, prices do not count.
    """
    found = [
        (changed, prices, whole)
        for changed, prices in _kept()
        if prices.key.device == device
        and prices.key.openvino == version("openvino")
        and (whole := prices.model(sha256))
    ]
    if not found:
        return None
    _, prices, whole = max(found, key=lambda each: each[0])
    return ModelPrices(prices, weights, whole.chosen, whole)


def _kept() -> Iterator[tuple[float, Prices]]:
    """All that are kept, and when they were written."""
    folder = home() / "prices"
    for path in folder.glob("*.json") if folder.is_dir() else ():
        if found := _read(path):
            yield path.stat().st_mtime, found


def _read(path: Path) -> Prices | None:
    if not path.is_file():
        return None
    try:
        value = read_json(path, _FILE_LIMIT)
        check_schema(value, SCHEMA, path)
        return decode(Prices, {name: value[name] for name in ("key", "products", "models")})
    except InputError:
        return None
