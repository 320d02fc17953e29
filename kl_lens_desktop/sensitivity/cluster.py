"""The computers of a Ray cluster, and the candidates they measure as one computer would have measured them.

Ray is an optional package. Each computer gets one worker with all of its cores. Work is handed out a little
at a time, so that the loss of a worker costs no more than what it was measuring.
"""

import collections
import contextlib
import logging
import os
import signal
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from kl_lens_desktop.errors import ChildError, InputError, KLLensError
from kl_lens_desktop.files import reason
from kl_lens_desktop.hub.resolve import LocalModel
from kl_lens_desktop.model.inventory import blocks
from kl_lens_desktop.model.load import LoadedModel
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.cores import usable_cores
from kl_lens_desktop.process.events import Event, Note, Progress
from kl_lens_desktop.quantities import plural
from kl_lens_desktop.repository.model_files import model_files
from kl_lens_desktop.sensitivity.cluster_worker import ModelWorker, OpenedModel, Worker, sent, versions
from kl_lens_desktop.sensitivity.measuring import Candidate, Found
from kl_lens_desktop.sensitivity.metrics import Tally

_POLL_S = 0.2
_ANSWER_S = 5.0
_PART = 2**26  # bytes of a file that are sent at a time
_TOGETHER = 32  # candidates that pass a model on disk together: one widening of a block serves them all
_REVIVALS = 3  # of a worker on the same computer
Ask = Callable[[Any, list[int]], Any]
"""Has a worker measure some of the things to be measured, by number; a list of what it found comes back."""


@dataclass(frozen=True, slots=True)
class RemoteText:
    """A text that the workers have run the full-precision model on; as `measuring.Text`."""

    key: int
    signal: list[float]
    finite: bool


@dataclass(eq=False, slots=True)
class _Place:
    """A computer of the cluster, and its worker."""

    node: str
    cores: int
    actor: Any = None
    host: str = ""
    losses: int = 0
    opened: OpenedModel | None = None
    under_way: dict[Any, list[int]] = field(default_factory=dict)


class Workers(ABC):
    """A worker on each computer of a cluster, all with the same model; see `joined`.

    Parameters
    ----------
    ray : module
    cancel : Cancel
    """

    def __init__(self, ray: Any, cancel: Cancel) -> None:
        self._ray, self._cancel = ray, cancel
        self._places = [
            _Place(node["NodeID"], int(node["Resources"]["CPU"]), host=node["NodeManagerHostname"])
            for node in ray.nodes()
            if node["Alive"] and node["Resources"].get("CPU", 0) >= 1
        ]
        self._told: tuple[str, tuple[Any, ...]] | None = None

    @abstractmethod
    def _kind(self, cores: int) -> tuple[type[ModelWorker], tuple[Any, ...]]:
        """What a worker with so many cores is, and what it is made with."""

    def begin(self, stage: str, model: LocalModel, sha256: str) -> Iterator[Event]:
        """Start a worker on each computer and have it open the model, which is sent where it is not."""
        if not self._places:
            raise _none_left()
        for place in self._places:
            self._start(place)
        for place in self._places:
            yield Progress(stage, 0, 0, f"Starting on {place.host}")
            self._check_versions(place)
            if not self._get(place.actor.find.remote(model, sha256)):
                yield from self._send(stage, place, model, sha256)
                if not self._get(place.actor.find.remote(model, sha256)):
                    raise ChildError(
                        f"{place.host} did not get the model whole", "a file changed", "Try again"
                    )
        opening = [(place, place.actor.open.remote()) for place in self._places]
        for place, reference in opening:
            yield Progress(stage, 0, 0, f"Opening the model on {place.host}")
            place.opened = self._get(reference)
        self._model, self._sha256 = model, sha256
        hosts = ", ".join(f"{place.host} ({place.cores})" for place in self._places)
        count = plural(len(self._places), "computer")
        yield Note(f"Measuring on {count} of the cluster (cores): {hosts}")

    def _tell(self, method: str, *arguments: Any) -> list[Any]:
        """Have every worker do this first, and later those that are started again."""
        self._told = method, arguments
        return [getattr(place.actor, method).remote(*arguments) for place in self._places]

    def _in_order(self, count: int, ask: Ask, ahead: int = 2, size: int | None = None) -> Iterator[Any]:
        """What workers find for each of `count` things, in their order; the next call ends this one.

        Parameters
        ----------
        ask : Ask
        ahead : int
            How many lists a worker is given: what it measures now, and what it measures next.
        size : int, optional
            Of a list; by default what suits the worker's model.
        """
        for place in self._places:
            place.under_way.clear()  # of a caller that wanted no more
        waiting = collections.deque(range(count))
        results: dict[int, Any] = {}
        for wanted in range(count):
            while wanted not in results:
                for turn in range(1, ahead + 1):
                    self._hand_out(waiting, ask, turn, size)
                results.update(self._collected(waiting))
            yield results.pop(wanted)

    def _hand_out(self, waiting: collections.deque[int], ask: Ask, most: int, size: int | None) -> None:
        """Give a list to each worker that has fewer than so many."""
        for place in self._places:
            assert place.opened is not None
            length = size or (_TOGETHER if place.opened.mapped else place.opened.count)
            if waiting and len(place.under_way) < most:
                some = [waiting.popleft() for _ in range(min(length, len(waiting)))]
                place.under_way[ask(place.actor, some)] = some

    def _collected(self, waiting: collections.deque[int]) -> dict[int, Any]:
        """What has come in; what a lost worker had in hand is waiting again, first in line."""
        self._cancel.check()
        references = [reference for place in self._places for reference in place.under_way]
        done, _ = self._ray.wait(references, num_returns=1, timeout=_POLL_S)
        found: dict[int, Any] = {}
        for place in list(self._places):
            for reference in [each for each in place.under_way if each in done]:
                try:
                    results = self._result(reference)
                except self._ray.exceptions.RayActorError:
                    lost = sorted(index for some in place.under_way.values() for index in some)
                    waiting.extendleft(reversed(lost))
                    place.under_way.clear()
                    self._revive(place)
                    break
                found.update(zip(place.under_way.pop(reference), results, strict=True))
        return found

    def _start(self, place: _Place) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        strategy = NodeAffinitySchedulingStrategy(place.node, soft=False)
        kind, made_with = self._kind(place.cores)
        remote = self._ray.remote(kind).options(num_cpus=place.cores, scheduling_strategy=strategy)
        place.actor = remote.remote(*made_with)

    def _revive(self, place: _Place) -> None:
        """Start a lost worker again where its computer is still there; its calls wait for the model."""
        place.losses += 1
        alive = {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}
        if place.losses > _REVIVALS or place.node not in alive:
            self._places.remove(place)
            if not self._places:
                raise _none_left()
            return
        self._start(place)
        place.actor.find.remote(self._model, self._sha256)
        place.actor.open.remote()
        if self._told:
            method, arguments = self._told
            getattr(place.actor, method).remote(*arguments)

    def _check_versions(self, place: _Place) -> None:
        place.host, theirs = self._get(place.actor.about.remote())
        for name, ours in versions().items():
            if theirs[name] != ours:
                raise InputError(
                    f"Cannot measure on {place.host}",
                    f"it has {name} {theirs[name]}, and this computer {ours}",
                    "Install the same versions on all of them",
                )

    def _send(self, stage: str, place: _Place, model: LocalModel, sha256: str) -> Iterator[Event]:
        files = model_files(model.folder)
        every = (*files.small, *files.weights)
        total, done = sum(path.stat().st_size for path in every), 0
        for path in every:
            with path.open("rb") as file:
                start = 0
                while (part := file.read(_PART)) or not start:
                    self._get(place.actor.receive.remote(sha256, path.name, part, start))
                    start, done = start + len(part), done + len(part)
                    yield Progress(stage, done, total, f"Sending the model to {place.host}", "bytes")
                    if not part:
                        break

    def _get(self, *references: Any) -> Any:
        """The first result of any of these calls; a wish to cancel is heard meanwhile."""
        left = list(references)
        while True:
            self._cancel.check()
            done, _ = self._ray.wait(left, num_returns=1, timeout=_POLL_S)
            for reference in done:
                try:
                    return self._result(reference)
                except self._ray.exceptions.RayActorError as error:
                    left.remove(reference)
                    if not left:
                        raise _none_left() from error

    def _result(self, reference: Any) -> Any:
        """What a call gave; what we raise there is raised here in its own words."""
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, KLLensError):
                raise error.cause from error
            raise


class Cluster(Workers):
    """The workers of one analysis.

    Parameters
    ----------
    ray : module
    loaded : LoadedModel
        The same model, on this computer.
    precision : str
        As `sensitivity.jobs.Analysis` has it.
    cancel : Cancel
    """

    together = False

    def __init__(self, ray: Any, loaded: LoadedModel, precision: str, cancel: Cancel) -> None:
        super().__init__(ray, cancel)
        self._precision, self._key = precision, 0
        self.model: PreTrainedModel = loaded.model
        self.depth = len(blocks(loaded.model))

    @property
    def count(self) -> int:
        """How many candidates are measured at the same time."""
        return sum(place.opened.count for place in self._places if place.opened)

    def open(self, ids: Tensor) -> RemoteText:
        """As `Measuring.open`: every worker runs the text; the first to finish tells of it."""
        self._key += 1
        signal, finite = self._get(*self._tell("text", self._key, ids))
        return RemoteText(self._key, signal, finite)

    def found(self, text: RemoteText, todo: Sequence[Candidate]) -> Generator[Found | float]:
        """As `Measuring.found`."""

        def ask(worker: Any, some: Sequence[int]) -> Any:
            return worker.measure.remote(text.key, [sent(todo[index]) for index in some])

        yield from self._in_order(len(todo), ask)

    def noise(self, text: RemoteText) -> Tally:
        """As `Measuring.noise`."""
        found: Tally = self._get(*(place.actor.noise.remote(text.key) for place in self._places[:1]))
        return found

    def broken(self) -> Iterator[str]:
        """As `Measuring.broken`."""
        yield from self._get(self._places[0].actor.broken.remote())

    def _kind(self, cores: int) -> tuple[type[ModelWorker], tuple[Any, ...]]:
        return Worker, (cores, self._precision)


@contextlib.contextmanager
def joined(address: str) -> Iterator[Any]:
    """Ray's module, connected to the cluster at an address for the length of the block.

    Parameters
    ----------
    address : str
        Of a cluster, ``host:port`` or ``ray://host:port``; ``auto`` for the one that this computer belongs
        to; ``local`` for one of this computer alone.

    Raises
    ------
    InputError
        If Ray is not installed, or nothing answers there.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray's telemetry
    if _has_token():  # which Ray shows only if told to; a cluster that wants none minds no token
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        import ray
    except ImportError as error:
        raise InputError(
            "Cannot measure on a cluster",
            "the package ray is not installed",
            'Install it with: pip install "kl-lens-desktop[cluster]"',
        ) from error
    _check_answers(address)
    heard = signal.getsignal(signal.SIGTERM)
    local = address == "local"
    try:
        ray.init(
            address=address,
            num_cpus=usable_cores() if local else None,
            namespace="kl-lens",
            include_dashboard=False if local else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ray.exceptions.RayError, ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise InputError(
            f"Cannot join the Ray cluster at {address}",
            " ".join(str(error).split())[:200],
            "Use the same version of Ray on all computers. If the cluster asks for a token, copy "
            "~/.ray/auth_token from its first computer to the same place here",
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, heard)  # Ray puts its own in its place
    try:
        yield ray
    finally:
        ray.shutdown()


def _has_token() -> bool:
    """Whether this computer has the secret by which a cluster of Ray 2.59 and later may know its members.

    Source: https://docs.ray.io/en/latest/ray-security/token-auth.html
    """
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return True
    return (Path.home() / ".ray" / "auth_token").is_file()


def _check_answers(address: str) -> None:
    """Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host:
        return
    try:
        socket.create_connection((host, int(port)), _ANSWER_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _unreachable(
            address, reason(error) if isinstance(error, OSError) else "it is no address"
        ) from error


def _unreachable(address: str, why: str) -> InputError:
    return InputError(
        f"Cannot reach a Ray cluster at {address}",
        why,
        "Start one with `ray start --head` there, or give its address as HOST:PORT",
    )


def _none_left() -> ChildError:
    return ChildError(
        "The cluster has no worker left",
        "its computers are gone, or their workers were ended more than three times",
        "What was measured is kept. Start again with the cluster, or without",
    )
