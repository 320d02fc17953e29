"""What a person relies on when a model comes from the Hub, against a real HTTP server that misbehaves."""

import dataclasses
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import keyring
import pytest
from huggingface_hub import ModelInfo, constants
from huggingface_hub.errors import OfflineModeIsEnabled
from hypothesis import example, given
from hypothesis import strategies as st
from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked, PasswordDeleteError

from kl_lens_desktop import resources
from kl_lens_desktop.errors import Cancelled, HubError, InputError, KLLensError, ModelError
from kl_lens_desktop.hub import access_token, client, refusals, session, store
from kl_lens_desktop.hub.candidate import examine
from kl_lens_desktop.hub.download import pull
from kl_lens_desktop.hub.facts import Facts
from kl_lens_desktop.hub.resolve import resolve_model
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event, Finished, Note, Progress
from kl_lens_desktop.repository.listing import HubFile
from kl_lens_desktop.repository.listing import Repository as Listed
from kl_lens_desktop.repository.names import is_safe_name
from tests import hub_server
from tests.hub_server import COMMIT, Hub, Repository
from tests.machine import slowness

WEIGHTS = "model.safetensors"
SMALL = {
    "config.json": b'{"model_type": "mamba2"}',
    "tokenizer.json": b"{}" * 999,
    WEIGHTS: bytes(range(256)) * 12_000,
}


class MemoryKeyring(KeyringBackend):
    """A keyring that forgets when the test ends, so that no test touches the person's own."""

    priority = 1

    def __init__(self, *, locked: bool = False) -> None:
        super().__init__()
        self.secrets: dict[tuple[str, str], str] = {}
        self.locked = locked

    def get_password(self, service: str, username: str) -> str | None:
        self._refuse_if_locked()
        return self.secrets.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self._refuse_if_locked()
        self.secrets[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        self._refuse_if_locked()
        if self.secrets.pop((service, username), None) is None:
            raise PasswordDeleteError("not found")

    def _refuse_if_locked(self) -> None:
        if self.locked:
            raise KeyringLocked("the person did not unlock it")


@pytest.fixture(autouse=True)
def own_keyring() -> Iterator[MemoryKeyring]:
    before, mine = keyring.get_keyring(), MemoryKeyring()
    keyring.set_keyring(mine)
    yield mine
    keyring.set_keyring(before)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "Bücher und Modelle"
    monkeypatch.setenv("KL_LENS_HOME", str(folder))
    hub_server.go_online(monkeypatch, folder)
    monkeypatch.setattr(refusals, "_FIRST_DELAY_S", 0.01)
    return folder


@pytest.fixture
def hub(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_server.serve({"tiny/hybrid": Repository(dict(SMALL))}) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def events_of(model: str, revision: str | None = None, cancel: Cancel | None = None) -> list[Event]:
    return list(pull(model, revision, cancel))


def folder_of(events: list[Event]) -> Path:
    assert isinstance(events[-1], Finished)
    return Path(events[-1].result["folder"])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def partials(home: Path) -> list[Path]:
    return list(home.glob("hub/*/blobs/*.incomplete"))


def ranges(hub: Hub, name: str, server: str = "cdn") -> list[str | None]:
    return [request.headers.get("range") for request in hub.bodies(name) if request.server == server]


def test_the_sample_arrives_whole_and_opens(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = hub_server.folder_files(resources.path("sample-hybrid"))
    hub.repositories["tiny/sample"] = Repository(
        {**sample, "pytorch_model.bin": b"pickle", "original/a.safetensors": b"x"}
    )
    monkeypatch.setenv("HF_TOKEN", hub.token)
    events = events_of("tiny/sample")

    assert events[-1] == Finished({"folder": str(folder_of(events)), "id": "tiny/sample", "revision": COMMIT})
    assert contents(folder_of(events)) == sample
    model = resolve_model("tiny/sample")
    assert (model.id, model.folder, model.revision) == ("tiny/sample", folder_of(events), COMMIT)

    progress = [event for event in events if isinstance(event, Progress) and event.total]
    total = sum(map(len, sample.values()))
    assert {event.total for event in progress} == {total}
    done = [event.done for event in progress]
    assert done == sorted(done)
    assert done[-1] == total


def test_the_token_goes_to_the_hub_and_to_nobody_else(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    hub.drop_after[WEIGHTS] = [1_000_000]
    events_of("tiny/hybrid")
    signed = {
        server: {"authorization" in r.headers for r in hub.requests if r.server == server}
        for server in ("hub", "cdn")
    }
    assert signed == {"hub": {True}, "cdn": {False}}


def test_a_second_pull_downloads_nothing(hub: Hub) -> None:
    first = events_of("tiny/hybrid")
    hub.requests.clear()
    assert events_of("tiny/hybrid")[-1] == first[-1]
    assert [request.path for request in hub.requests] == ["/api/models/tiny/hybrid/revision/main"]


def test_a_commit_that_is_here_needs_no_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    first = events_of("tiny/hybrid")
    go_offline(monkeypatch)
    assert events_of("tiny/hybrid", COMMIT) == first[-1:]


def test_without_the_hub_the_copy_that_is_here_is_used_and_said(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = events_of("tiny/hybrid")
    go_offline(monkeypatch)
    *_, note, last = events_of("tiny/hybrid")
    assert last == first[-1]
    assert note == Note(
        "Cannot ask the Hub: HF_HUB_OFFLINE is set. Unset it, or choose a model on this computer. "
        "Using the copy downloaded before, at 3fa9c1d.",
        "warning",
    )
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        events_of("tiny/hybrid", "v2")


def test_files_come_from_one_commit_even_if_the_branch_moves_on(hub: Hub) -> None:
    events_of("tiny/hybrid")
    resolved = {request.path.split("/")[4] for request in hub.requests if "/resolve/" in request.path}
    assert resolved == {COMMIT}
    later = "0" * 40
    hub.repositories["tiny/hybrid"] = Repository(
        {**SMALL, "config.json": b'{"model_type": "mamba"}'}, commit=later
    )
    new = folder_of(events_of("tiny/hybrid"))
    assert resolve_model("tiny/hybrid").folder == new
    assert resolve_model("tiny/hybrid", COMMIT[:7]).folder != new
    assert resolve_model("Tiny/Hybrid", "main").revision == later


def test_a_file_that_went_missing_is_fetched_again(hub: Hub) -> None:
    folder = folder_of(events_of("tiny/hybrid"))
    (folder / "config.json").unlink()
    hub.requests.clear()
    events_of("tiny/hybrid")
    assert contents(folder) == SMALL
    assert hub.bodies(WEIGHTS) == []


def test_a_dropped_connection_goes_on_from_the_byte_reached(hub: Hub) -> None:
    hub.drop_after[WEIGHTS] = [1_000_000, 0, 500_000]
    events = events_of("tiny/hybrid")
    assert contents(folder_of(events)) == SMALL
    assert ranges(hub, WEIGHTS) == [None, "bytes=1000000-", "bytes=1000000-", "bytes=1500000-"]
    notes = [event for event in events if isinstance(event, Note)]
    assert len(notes) == 3
    assert "1,500,000" in notes[-1].text


def test_a_hub_that_never_delivers_ends_in_words(hub: Hub) -> None:
    hub.drop_after[WEIGHTS] = [0] * 20
    with pytest.raises(HubError, match="broke"):
        events_of("tiny/hybrid")
    with pytest.raises(HubError, match="not on this computer"):
        resolve_model("tiny/hybrid")


def test_a_size_that_is_listed_wrong_is_said_before_a_byte_is_kept(hub: Hub, home: Path) -> None:
    for wrong in (1, -1):
        listed = hub_server.listing(SMALL)
        listed[-1]["size"] += wrong
        hub.repositories["tiny/hybrid"].listed = listed
        size = f"{len(SMALL[WEIGHTS]):,}"
        with pytest.raises(HubError, match=f"model.safetensors is listed with .* and sent with {size}"):
            events_of("tiny/hybrid")
    assert [path.stat().st_size for path in partials(home)] == [0]


def test_a_server_without_ranges_still_delivers(hub: Hub) -> None:
    hub.resumes = False
    hub.drop_after[WEIGHTS] = [1_000_000]
    assert contents(folder_of(events_of("tiny/hybrid"))) == SMALL


def test_cancelled_in_mid_file_the_next_pull_goes_on_there(hub: Hub) -> None:
    hub.stall = WEIGHTS
    cancel = Cancel()
    threading.Timer(0.5, cancel.cancel).start()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        events_of("tiny/hybrid", cancel=cancel)
    assert time.monotonic() - began < 0.5 + slowness()
    assert not [thread for thread in threading.enumerate() if thread.name == "network"]
    (stored,) = store.list_models()
    assert not stored.complete
    with pytest.raises(ModelError, match="not complete"):
        resolve_model(str(stored.folder))

    hub.stall = ""
    assert contents(folder_of(events_of("tiny/hybrid"))) == SMALL
    assert ranges(hub, WEIGHTS) == [None, "bytes=1000-"]


def test_cancel_is_heard_while_the_hub_is_silent(hub: Hub) -> None:
    hub.stall = "api"
    cancel = Cancel()
    threading.Timer(0.3, cancel.cancel).start()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        events_of("tiny/hybrid", cancel=cancel)
    assert time.monotonic() - began < 0.3 + slowness()
    assert not [thread for thread in threading.enumerate() if thread.name == "network"]


def test_a_pull_that_is_let_go_leaves_no_thread_and_no_lock(hub: Hub) -> None:
    hub.stall = WEIGHTS
    abandoned = pull("tiny/hybrid")
    while not (hub.bodies(WEIGHTS)):
        next(abandoned)
    abandoned.close()
    hub.stall = ""
    assert contents(folder_of(events_of("tiny/hybrid"))) == SMALL
    assert not [thread for thread in threading.enumerate() if thread.name == "network"]


def test_paused_nothing_arrives_and_resumed_it_ends_well(hub: Hub, home: Path) -> None:
    hub.repositories["tiny/hybrid"].files[WEIGHTS] = bytes(30 * 2**20)
    hub.slow_s = 0.02
    cancel, seen = Cancel(), list[Event]()

    def work() -> None:
        for event in pull("tiny/hybrid", cancel=cancel):
            if isinstance(event, Progress) and event.done > 5 * 2**20 and not seen:
                cancel.pause()
                seen.append(event)
        seen.append(event)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    while not seen:
        time.sleep(0.01)
    time.sleep(0.2)
    (partial,) = partials(home)
    size = partial.stat().st_size
    time.sleep(0.4)
    assert partial.stat().st_size == size
    assert 0 < size < 30 * 2**20
    cancel.resume()
    worker.join(10)
    assert folder_of(seen).is_dir()


def test_the_time_left_is_about_right(hub: Hub) -> None:
    hub.repositories["tiny/hybrid"].files[WEIGHTS] = bytes(25 * 2**20)
    hub.slow_s = 0.05
    told: list[tuple[float, Progress]] = []
    for event in pull("tiny/hybrid"):
        if isinstance(event, Progress) and event.eta_s is not None and event.done < event.total:
            told.append((time.monotonic(), event))
    assert told
    (began, first), (at, event) = told[0], told[len(told) // 2]
    pace = (event.done - first.done) / (at - began)  # as fast as this busy computer has been
    assert event.eta_s == pytest.approx((event.total - event.done) / pace, rel=0.7)


def test_two_pulls_of_one_model_wait_for_each_other_and_fetch_it_once(hub: Hub) -> None:
    hub.gate.clear()
    results: list[list[Event]] = []
    first = threading.Thread(target=lambda: results.append(events_of("tiny/hybrid")))
    first.start()
    while not ranges(hub, WEIGHTS):
        time.sleep(0.01)
    second = []
    for event in pull("tiny/hybrid"):
        second.append(event)
        if isinstance(event, Progress) and event.message.startswith("waiting for another program"):
            hub.gate.set()
    first.join()
    assert hub.gate.is_set()
    assert contents(folder_of(second)) == contents(folder_of(results[0])) == SMALL
    assert len(ranges(hub, WEIGHTS)) == 1


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_a_wrong_byte_is_noticed_and_the_file_fetched_once_more(hub: Hub, name: str) -> None:
    hub.corrupt[name] = 1
    events = events_of("tiny/hybrid")
    assert contents(folder_of(events)) == SMALL
    assert any(isinstance(event, Note) and "wrong hash" in event.text for event in events)


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_wrong_twice_it_never_becomes_visible(hub: Hub, name: str) -> None:
    hub.corrupt[name] = 9
    with pytest.raises(HubError, match=f"{re.escape(name)} arrived with a wrong hash"):
        events_of("tiny/hybrid")
    assert not [path for model in store.list_models() for path in model.folder.glob(name)]
    assert store.find("tiny/hybrid") is None


def test_a_spoilt_partial_file_does_no_harm(hub: Hub, home: Path) -> None:
    hub.stall = WEIGHTS
    cancel = Cancel()
    threading.Timer(0.4, cancel.cancel).start()
    with pytest.raises(Cancelled):
        events_of("tiny/hybrid", cancel=cancel)
    (partial,) = partials(home)
    partial.write_bytes(b"\0" * 1000)  # what a power cut may leave
    hub.stall = ""
    assert contents(folder_of(events_of("tiny/hybrid"))) == SMALL


@pytest.mark.parametrize(
    ("repository", "token", "words"),
    [
        (
            None,
            "",
            r"the Hub has no such model, or it is private\. Check the spelling; if it is private, create",
        ),
        (None, "hf_right", r"the Hub has no such model, or it is private\. Check the spelling\.$"),
        (None, "hf_wrong", r"does not accept your token\. Create a token at .*/settings/tokens"),
        (Repository(SMALL, private=True), "", r"if it is private, create a token"),
        (
            Repository(SMALL, gated=True),
            "",
            r"it is gated: .*\. Ask for access at http.*/some/model, create a token",
        ),
        (Repository(SMALL, gated=True), "hf_right", r"Ask for access at http.*/some/model, then pull again"),
        (Repository({"pytorch_model.bin": b""}), "", r"pickles.*reads only safetensors"),
        (Repository({"config.json": b"{}", "a.gguf": b""}), "", r"it has no \*\.safetensors"),
        (Repository({WEIGHTS: b"x"}), "", r"it has no config\.json"),
        (Repository(SMALL, listed=[{"rfilename": name} for name in SMALL]), "", r"gives no size or hash"),
        (Repository(SMALL, listed=[{"nonsense": 1}]), "", r"did not answer like the Hub"),
        (Repository(SMALL, commit="../../etc"), "", r"did not answer like the Hub"),
    ],
)
def test_each_refusal_has_its_own_words_and_a_next_step(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, repository: Repository | None, token: str, words: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    if repository:
        hub.repositories["some/model"] = dataclasses.replace(repository)
    with pytest.raises(HubError, match=words) as raised:
        events_of("some/model")
    assert raised.value.next_step
    assert "\n" not in str(raised.value)
    assert store.find("some/model") is None


def test_an_unknown_revision_is_told_from_an_unknown_model(hub: Hub) -> None:
    with pytest.raises(HubError, match="it has no revision v9"):
        events_of("tiny/hybrid", "v9")


def test_a_busy_hub_is_asked_again_after_the_time_it_names(hub: Hub) -> None:
    hub.refuse = [(429, {"Retry-After": "1"}), (503, {}), (500, {})]
    began = time.monotonic()
    assert contents(folder_of(events_of("tiny/hybrid"))) == SMALL
    assert time.monotonic() - began >= 1


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (
            [(429, {"Retry-After": "900"})],
            r"too many requests \(429\)\. Try again in 900 s; a token raises the limit",
        ),
        ([(429, {"RateLimit": '"api";r=0;t=250'})], r"too many requests \(429\)\. Try again in 250 s"),
        ([(503, {})] * 9, r"the Hub has a problem \(503\)"),
    ],
)
def test_a_hub_that_stays_busy_is_left_alone(
    hub: Hub, answers: list[tuple[int, dict[str, str]]], words: str
) -> None:
    hub.refuse = answers
    with pytest.raises(HubError, match=words):
        events_of("tiny/hybrid")


def test_offline_in_all_its_forms(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.login_page = True
    with pytest.raises(HubError, match="login page"):
        events_of("tiny/hybrid")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        closed = listener.getsockname()[1]
    for address, words in (
        (f"http://127.0.0.1:{closed}", r"cannot be reached \(it refused the connection\)"),
        (
            "http://no-such-host.invalid",
            r"no-such-host.invalid cannot be reached \(its address was not found; this computer seems",
        ),
        ("huggingface.co", "HF_ENDPOINT is 'huggingface.co', which is not an address"),
        ("http://[", "which is not an address"),
    ):
        monkeypatch.setenv("HF_ENDPOINT", address)
        with pytest.raises(HubError, match=words):
            events_of("tiny/hybrid")
        with pytest.raises(HubError, match=words):
            client.search("hybrid")
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    go_offline(monkeypatch)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set") as said:
        events_of("tiny/hybrid")
    assert isinstance(said.value.__cause__, OfflineModeIsEnabled)
    with pytest.raises(HubError, match="no folder here has that name, and HF_HUB_OFFLINE is set"):
        events_of("hybrid")


def test_a_silent_hub_is_not_waited_for_without_end(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.stall = "api"
    monkeypatch.setattr(session, "READ_TIMEOUT_S", 0.2)
    with pytest.raises(HubError, match="did not answer in time"):
        events_of("tiny/hybrid")


def test_too_small_a_disk_is_said_before_the_first_byte(hub: Hub) -> None:
    listed = hub_server.listing(SMALL)
    listed[-1]["size"] = 10**18
    hub.repositories["tiny/hybrid"].listed = listed
    with pytest.raises(InputError, match=r"it needs about 1,000,000 TB, and .* are free in"):
        events_of("tiny/hybrid")
    assert hub.bodies("tokenizer.json") == hub.bodies(WEIGHTS) == []


def test_a_folder_that_cannot_be_written_is_said(hub: Hub, home: Path) -> None:
    home.write_text("not a folder", encoding="utf-8")
    with pytest.raises(InputError, match="Cannot write into"):
        events_of("tiny/hybrid")


def test_of_names_that_differ_in_capital_letters_only_one_is_taken(hub: Hub) -> None:
    hub.repositories["tiny/hybrid"].files |= {"LICENSE.md": b"one", "LICENSE.MD": b"two", "Config.json": b"x"}
    names = set(contents(folder_of(events_of("tiny/hybrid"))))
    assert len(names) == len({name.casefold() for name in names})
    assert names == {*SMALL, "LICENSE.md"}
    shards = {"a.safetensors": b"1", "A.safetensors": b"2"}
    index = json.dumps({"weight_map": {"x": "a.safetensors", "y": "A.safetensors"}}).encode()
    small = {name: content for name, content in SMALL.items() if name != WEIGHTS}
    hub.repositories["tiny/two"] = Repository({**small, **shards, "model.safetensors.index.json": index})
    with pytest.raises(HubError, match=r"names files that differ only in capital letters"):
        events_of("tiny/two")


def test_nothing_is_told_to_anybody_else(hub: Hub) -> None:
    events_of("tiny/hybrid")
    client.search("hybrid")
    paths = {request.path.replace(COMMIT, "COMMIT") for request in hub.requests}
    assert {path for path in paths if "/resolve/" not in path and path.startswith("/api")} == {
        "/api/models",
        "/api/models/tiny/hybrid/revision/main",
    }
    agents = {request.headers["user-agent"] for request in hub.requests}
    assert all(re.fullmatch(r"kl-lens/\S+; hf_hub/\S+; python/\S+", agent) for agent in agents)


def test_only_what_opening_takes_is_chosen() -> None:
    wanted = [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "vocab.json",
        "merges.txt",
        "added_tokens.json",
        "chat_template.jinja",
        "README.md",
        "LICENSE",
    ]
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    others = [
        "pytorch_model.bin",
        "model.gguf",
        "onnx/model.onnx",
        "original/model.safetensors",
        "optimizer.pt",
        "consolidated.safetensors",
        ".gitattributes",
        "modeling_evil.py",
        "training_args.json",
    ]
    assert _chosen(wanted + shards + others) == set(wanted + shards)
    index = "model.safetensors.index.json"  # of the shards, which are not taken
    assert _chosen(["config.json", WEIGHTS, index, *shards]) == {"config.json", WEIGHTS}
    assert _chosen(["config.json", "part-a.safetensors"]) == {"config.json", "part-a.safetensors"}
    odd = ["model.safetensors-00001-of-00001.safetensors", "consolidated.safetensors"]
    assert _chosen(["config.json", *odd]) == {"config.json", odd[0]}


def _chosen(names: list[str]) -> set[str]:
    files = tuple(HubFile(name, 1, "0" * 40) for name in (*names, "vocab.txt"))
    about = ModelInfo(id="a/b")
    small = {"config.json": b'{"model_type": "mamba2"}', "model.safetensors.index.json": b"{}"}
    chosen = examine(Listed("a/b", COMMIT, files, about), lambda file: small[file.name])
    return {file.name for file in chosen.files} - {"vocab.txt"}


@pytest.mark.parametrize(
    "name",
    [
        "../evil.safetensors",
        "../../config.json",
        "a/../../evil.safetensors",
        "..\\evil.safetensors",
        "/etc/config.json",
        "//host/share/config.json",
        "C:\\evil.safetensors",
        "C:evil.safetensors",
        "nul.safetensors",
        "COM1.safetensors",
        "new\nline.safetensors",
        "x" * 200 + ".safetensors",
    ],
)
def test_a_name_that_leads_out_of_the_folder_is_refused(hub: Hub, tmp_path: Path, name: str) -> None:
    hub.repositories["tiny/hybrid"].files = {**SMALL, name: b"evil"}
    with pytest.raises(HubError, match="not safe to store"):
        events_of("tiny/hybrid")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@given(st.text(max_size=20) | st.from_regex(r"(\.|/|\\|:| |con|nul|aux|a|C){1,6}(\.json)?", fullmatch=True))
@example("..")
@example("")
@example("CON .json")
def test_an_accepted_name_is_a_plain_file_on_every_system(name: str) -> None:
    if not is_safe_name(name):
        return
    for flavour, root in ((PurePosixPath, "/models/m"), (PureWindowsPath, "C:\\models\\m")):
        folder = flavour(root)
        assert (folder / name).parent == folder
        assert (folder / name).name == name
    assert not PureWindowsPath(name).is_reserved()


def test_the_sample_is_always_there() -> None:
    model = resolve_model("sample")
    assert (model.id, model.revision) == ("sample", None)
    assert (model.folder / WEIGHTS).is_file()


def test_a_folder_is_called_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("config.json", WEIGHTS):
        (folder / name).touch()
    monkeypatch.chdir(folder)
    assert resolve_model(".") == resolve_model(str(folder))
    assert resolve_model(".").id == "mine"


@pytest.mark.parametrize(
    ("names", "kind", "words"),
    [
        ([], InputError, "it is empty"),
        (["weights/"], InputError, "it contains only folders"),
        (["notes.txt"], ModelError, r"it has no config\.json"),
        (["config.json"], ModelError, r"it has no \*\.safetensors"),
        (
            ["config.json", "pytorch_model.bin"],
            ModelError,
            "pickles, which can run code.*reads only safetensors",
        ),
    ],
)
def test_a_folder_that_is_no_model_is_said_in_one_sentence(
    tmp_path: Path, names: list[str], kind: type[KLLensError], words: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in names:
        (folder / name).mkdir() if name.endswith("/") else (folder / name).touch()
    with pytest.raises(kind, match=words):
        resolve_model(str(folder))


def test_what_is_not_here_is_said(tmp_path: Path) -> None:
    file = tmp_path / WEIGHTS
    file.touch()
    with pytest.raises(InputError, match="it is a file, not a folder"):
        resolve_model(str(file))
    with pytest.raises(InputError, match="there is no such folder"):
        resolve_model(str(tmp_path / "absent"))
    with pytest.raises(HubError, match="Run `kl-lens pull some/model`"):
        resolve_model("some/model")


def test_the_store_lists_weighs_and_removes(hub: Hub, home: Path) -> None:
    hub.repositories["tiny/other"] = Repository(dict(SMALL))
    events_of("tiny/hybrid")
    events_of("tiny/other")
    models = store.list_models()
    assert [(model.id, model.revision, model.complete, model.names) for model in models] == [
        ("tiny/other", COMMIT, True, {"main"}),
        ("tiny/hybrid", COMMIT, True, {"main"}),
    ]
    assert models[0].bytes == sum(map(len, SMALL.values()))
    store.remove_model(models[0])
    assert store.list_models() == models[1:]
    assert [path.name for path in home.glob("hub/models--*")] == ["models--tiny--hybrid"]


def test_what_two_commits_share_outlives_one_of_them(hub: Hub) -> None:
    events_of("tiny/hybrid")
    hub.repositories["tiny/hybrid"] = Repository({**SMALL, "README.md": b"new"}, commit="0" * 40)
    folder = folder_of(events_of("tiny/hybrid"))
    assert len(ranges(hub, WEIGHTS)) == 1
    old = store.find("tiny/hybrid", COMMIT)
    assert old is not None
    store.remove_model(old)
    assert contents(folder) == {**SMALL, "README.md": b"new"}
    assert store.find("tiny/hybrid", COMMIT) is None


def test_search_tells_what_a_person_chooses_by(hub: Hub) -> None:
    hub.repositories["tiny/gated-hybrid"] = Repository({}, gated=True, tags=("zamba2", "license:mit"))
    hits = client.search("HYBRID")
    assert [(hit.id, hit.gated) for hit in hits] == [("tiny/hybrid", False), ("tiny/gated-hybrid", True)]
    assert hits[0] == Facts(
        id="tiny/hybrid",
        architecture="granitemoehybrid",
        parameters=7_970_000,
        downloads=1200,
        likes=7,
        gated=False,
        licence="",
        base_model="",
        languages="",
        updated="2026-05-04",
        obstacle="",
    )
    assert len(client.search("hybrid", limit=1)) == 1
    assert client.search("falcon") == []
    assert [hit.id for hit in client.search("", open_only=True)] == ["tiny/hybrid"]
    for wanted in ({"architecture": "zamba2"}, {"licence": "mit"}):
        assert [hit.id for hit in client.search("", **wanted)] == ["tiny/gated-hybrid"]
    assert client.search("hybrid", author="somebody") == []
    assert {request.path for request in hub.requests} == {"/api/models"}


def test_the_token_lives_in_the_keyring_and_the_environment_wins(
    own_keyring: MemoryKeyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert access_token.read_token() is None
    access_token.save_token(" hf_saved \n")
    assert own_keyring.secrets == {("kl-lens", "huggingface"): "hf_saved"}
    assert access_token.read_token() == "hf_saved"
    monkeypatch.setenv("HF_TOKEN", "hf_environment")
    assert access_token.read_token() == "hf_environment"
    monkeypatch.delenv("HF_TOKEN")
    access_token.forget_token()
    access_token.forget_token()  # of nothing, it is done already
    assert access_token.read_token() is None


def test_the_token_of_hf_auth_login_comes_before_the_keyring(
    own_keyring: MemoryKeyring, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access_token.save_token("hf_saved")
    Path(constants.HF_TOKEN_PATH).write_text(hub.token, encoding="utf-8")
    assert access_token.read_token() == hub.token
    events_of("tiny/hybrid")
    asked = {r.headers.get("authorization") for r in hub.requests if r.server == "hub"}
    assert asked == {f"Bearer {hub.token}"}
    access_token.forget_token()
    assert access_token.read_token() == hub.token


def test_a_locked_keyring_is_no_token_and_says_so_when_saving(own_keyring: MemoryKeyring, hub: Hub) -> None:
    own_keyring.locked = True
    assert contents(folder_of(events_of("tiny/hybrid"))) == SMALL
    with pytest.raises(HubError, match="the environment variable HF_TOKEN"):
        access_token.save_token("hf_x")
    with pytest.raises(HubError, match="not removed"):
        access_token.forget_token()


def test_a_garbled_token_is_said_and_not_sent(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_two words")
    with pytest.raises(HubError, match="contains invalid characters"):
        events_of("tiny/hybrid")
    assert hub.requests == []
