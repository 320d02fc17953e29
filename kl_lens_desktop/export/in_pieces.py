"""A stateful graph run one piece after the other, since a device that compiles it whole takes several times
the memory of its weights.

Each piece has some of the weights. It is compiled alone, sees all calls of all prompts, and is forgotten
before the next one is compiled. What pieces hand on are the activations of all calls, which are small.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops

from kl_lens_desktop.export.calls import FULL_PRECISION, call_inputs
from kl_lens_desktop.process.cancel import Cancel

_WEIGHT = 1024  # elements from which on a constant counts
_LOGITS = "logits"
_STACKED = ".conv."  # in the name of a variable that is a stack of what each layer writes: see `trace.State`

Feeds = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class _State:
    """A variable, of which `stand_in` is an input that has its place.

    Attributes
    ----------
    parts : list of ov.Output
        Its next value, or the layers' values of which it is stacked.
    first : array, optional
        What it holds before the first call, of one row; nothing without it.
    """

    stand_in: ov.Node
    parts: list[ov.Output]
    first: NDArray[np.float32] | None

    @property
    def name(self) -> str:
        return str(self.stand_in.get_friendly_name())

    def start(self) -> NDArray[np.float32]:
        """What it holds before the first call: of one row, with no tokens unless it begins with some."""
        if self.first is not None:
            return self.first.copy()
        sizes = list(self.stand_in.get_output_partial_shape(0))[1:]
        return np.zeros([1, *(0 if size.is_dynamic else size.get_length() for size in sizes)], np.float32)

    def write(self, part: int, value: NDArray[np.float32], given: Feeds) -> None:
        """Set a part of it among what a call is given."""
        if len(self.parts) == 1:
            given[self.name] = value
        else:
            whole = given.setdefault(self.name, self.start())
            whole[:, part] = value[:, 0]  # (batch, layers, …)


@dataclass(frozen=True, slots=True)
class _Piece:
    """A graph without states.

    Attributes
    ----------
    inputs, handed : list of str
        Its inputs, and the inputs of later pieces that its first outputs are for; or ``logits``.
    written : list of (_State, int)
        The part of a state that each of its other outputs is.
    """

    graph: ov.Model
    inputs: list[str]
    handed: list[str]
    written: list[tuple[_State, int]]


def elements(graph: ov.Model) -> int:
    """Of all constants of a graph."""
    shapes = [op.get_output_shape(0) for op in graph.get_ops() if op.get_type_name() == "Constant"]
    return sum(math.prod(shape) for shape in shapes)


class InPieces:
    """The answers of a stateful graph on the CPU with nothing rounded.

    Parameters
    ----------
    graph : ov.Model
        It is taken apart.
    calls : sequence of (int, sequence of int)
        How many ids of its prompt came before each call, and its own. With none before, a prompt begins.
    most : int
        Elements of weights in a piece. A single larger weight is a piece too.
    """

    def __init__(self, graph: ov.Model, calls: Sequence[tuple[int, Sequence[int]]], most: int) -> None:
        self._calls = calls
        states, self._pieces = _cut(graph, most)
        self._states = {state.name: state for state in states}
        self._feeds: list[Feeds] = [call_inputs(ids, past) for past, ids in calls]
        self._last = {name: number for number, piece in enumerate(self._pieces) for name in piece.inputs}
        self._done = 0

    @property
    def graphs(self) -> list[ov.Model]:
        """The pieces, in the order in which they run."""
        return [piece.graph for piece in self._pieces]

    def prepare(self, cancel: Cancel) -> Iterator[float]:
        """Run all pieces but the last, which gives the logits; yields the share of them that is done."""
        count = len(self._pieces) - 1
        while self._done < count:
            for call, _ in enumerate(self._run(self._done, cancel)):
                yield (self._done + (call + 1) / len(self._calls)) / count
            self._done += 1

    def answers(self, cancel: Cancel) -> Iterator[NDArray[np.float32]]:
        """The logits of each call, (tokens, vocabulary), computed as they are asked for."""
        for _ in self.prepare(cancel):
            pass
        for given in self._run(len(self._pieces) - 1, cancel):
            yield given.pop(_LOGITS)[0]

    def _run(self, number: int, cancel: Cancel) -> Iterator[Feeds]:
        """A piece for every call; yields what is left of what each call was given, with what it came to."""
        cancel.check()
        piece = self._pieces[number]
        request = ov.Core().compile_model(piece.graph, "CPU", FULL_PRECISION).create_infer_request()
        starts = [past for past, _ in self._calls][1:]
        for given, following, past in zip(self._feeds, [*self._feeds[1:], {}], [*starts, 0], strict=True):
            cancel.check()
            for name in piece.inputs:
                if name not in given:  # the first call of a prompt
                    given[name] = self._states[name].start()
            outputs = list(request.infer([given[name] for name in piece.inputs]).values())
            given |= zip(piece.handed, outputs, strict=False)
            for (state, part), value in zip(piece.written, outputs[len(piece.handed) :], strict=True):
                if past:  # else nobody reads it
                    state.write(part, value, following)
            for name in [n for n in given if self._last.get(n, number) <= number and n != _LOGITS]:
                del given[name]
            yield given


def _cut(graph: ov.Model, most: int) -> tuple[list[_State], list[_Piece]]:
    nodes = graph.get_ordered_ops()
    logits = graph.output(_LOGITS).get_node().input_value(0)
    places, states = _places(nodes, most), _states(nodes)
    read = _reached([logits.get_node(), *(part.get_node() for state in states for part in state.parts)])
    places = _joined(_late(nodes, places, states), states)
    inputs = [*graph.get_parameters(), *(state.stand_in for state in states)]
    handed: dict[int, list[tuple[ov.Output, str]]] = {place: [] for place in range(max(places.values()) + 1)}
    for node in nodes:
        place = places[_id(node)]
        for output in node.outputs() if place >= 0 else ():
            later = [
                port
                for port in output.get_target_inputs()
                if places[_id(port.get_node())] > place and _id(port.get_node()) in read
            ]
            if later:
                stand_in = ops.parameter(output.get_partial_shape(), output.get_element_type())
                for port in later:
                    port.replace_source_output(stand_in.output(0))
                inputs.append(stand_in)
                handed[place].append((output, stand_in.get_friendly_name()))
    handed[places[_id(logits.get_node())]].append((logits, _LOGITS))
    pieces = [_piece(place, outputs, places, states, inputs) for place, outputs in handed.items()]
    return states, [piece for piece in pieces if piece.handed or piece.written]


def _piece(
    place: int,
    handed: list[tuple[ov.Output, str]],
    places: dict[int, int],
    states: list[_State],
    inputs: list[ov.Node],
) -> _Piece:
    written = [
        (state, number)
        for state in states
        for number, part in enumerate(state.parts)
        if max(0, places[_id(part.get_node())]) == place
    ]
    outputs = [output for output, _ in handed] + [state.parts[number] for state, number in written]
    results = [ops.result(output) for output in outputs]
    reached = _reached(results)
    used = [each for each in inputs if _id(each) in reached]
    graph = ov.Model(results, used)
    names = [str(each.get_friendly_name()) for each in used]
    return _Piece(graph, names, [name for _, name in handed], written)


def _places(nodes: Sequence[ov.Node], most: int) -> dict[int, int]:
    """The piece of each node by its id; -1 for what needs no weight, which is in every piece that asks."""
    places: dict[int, int] = {}
    fixed: dict[int, int] = {}  # elements in what depends on constants alone
    place, held = 0, 0
    for node in nodes:
        sources = [_id(value.get_node()) for value in node.input_values()]
        if node.get_type_name() == "Constant":
            fixed[_id(node)] = math.prod(node.get_output_shape(0))
        elif sources and all(source in fixed for source in sources):
            fixed[_id(node)] = sum(fixed[source] for source in sources)
        places[_id(node)] = max((places[source] for source in sources), default=-1)
        weights = 0 if _id(node) in fixed else sum(fixed.get(source, 0) for source in sources)
        if weights >= _WEIGHT:
            if held and held + weights > most:
                place, held = place + 1, 0
            held += weights
            places[_id(node)] = place
        if node.get_type_name() == "ReadValue":  # an input, whatever it begins with
            places[_id(node)] = -1
    return places


def _states(nodes: Sequence[ov.Node]) -> list[_State]:
    """The variables of a graph, in which inputs take their places."""
    states = []
    written = {
        node.get_attributes()["variable_id"]: node.input_value(0)
        for node in nodes
        if node.get_type_name() == "Assign"
    }
    for node in nodes:
        if node.get_type_name() == "ReadValue":
            variable = node.get_attributes()["variable_id"]
            stand_in = ops.parameter(node.get_output_partial_shape(0), node.get_element_type(), variable)
            node.output(0).replace(stand_in.output(0))
            value = written[variable]
            stack = value.get_node()
            is_stack = _STACKED in variable and stack.get_type_name() == "Concat"
            parts = stack.input_values() if is_stack else [value]
            states.append(_State(stand_in, parts, _first(node)))
    return states


def _first(read: ov.Node) -> NDArray[np.float32] | None:
    """What a variable begins with, if `stateful.begin` gave it something."""
    constant = read.input_value(0).get_node().input_value(0).get_node()
    if constant.get_type_name() == "Constant" and constant.get_output_partial_shape(0).rank.get_length():
        return np.array(constant.data, np.float32)
    return None


def _late(nodes: Sequence[ov.Node], places: dict[int, int], states: Sequence[_State]) -> dict[int, int]:
    """With what is computed of a state where the state is written, if it came before: such as its length.

    What depends on that moves with it. Where the state depends on it too, it is written still later.
    """
    least = {
        _id(reader): place
        for state, place in _whole(states, places)
        for reader in _readers(state.stand_in, places)
        if places[_id(reader)] < place
    }
    moved = dict(places)
    for node in nodes if least else ():
        if moved[_id(node)] >= 0:
            sources = (moved.get(_id(value.get_node()), -1) for value in node.input_values())
            moved[_id(node)] = max(moved[_id(node)], least.get(_id(node), -1), *sources)
    return moved


def _joined(places: dict[int, int], states: Sequence[_State]) -> dict[int, int]:
    """With those pieces as one in which a state would be read before it is written."""
    apart = np.ones(max(places.values()) + 1, int)
    for state, place in _whole(states, places):
        first = min((places[_id(reader)] for reader in _readers(state.stand_in, places)), default=0)
        apart[first + 1 : place + 1] = 0
    joined = apart.cumsum() - 1
    return {node: int(joined[place]) if place >= 0 else -1 for node, place in places.items()}


def _whole(states: Sequence[_State], places: dict[int, int]) -> list[tuple[_State, int]]:
    """The states that are written at once, and in which piece."""
    return [(each, places[_id(each.parts[0].get_node())]) for each in states if len(each.parts) == 1]


def _readers(node: ov.Node, places: dict[int, int]) -> list[ov.Node]:
    """What of the pieces computes something with a node."""
    found, left, seen = [], [node], set()
    while left:
        for port in left.pop().output(0).get_target_inputs():
            reader = port.get_node()
            if places[_id(reader)] >= 0:
                found.append(reader)
            elif _id(reader) not in seen:
                seen.add(_id(reader))
                left.append(reader)
    return found


def _reached(nodes: Sequence[ov.Node]) -> set[int]:
    """Ids of nodes and of all that they depend on."""
    seen, left = {_id(node) for node in nodes}, list(nodes)
    while left:
        for value in left.pop().input_values():
            source = value.get_node()
            if _id(source) not in seen:
                seen.add(_id(source))
                left.append(source)
    return seen


def _id(node: ov.Node) -> int:
    return int(node.get_instance_id())
