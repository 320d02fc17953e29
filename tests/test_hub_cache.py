"""The cache that all Hugging Face tools share, with their own client, and a Hub that misbehaves."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants, hf_hub_download, scan_cache_dir, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from kl_lens_desktop.cli.commands import run
from kl_lens_desktop.errors import Cancelled, HubError, InputError
from kl_lens_desktop.hub import refusals, session, store, transfer
from kl_lens_desktop.hub.download import pull
from kl_lens_desktop.hub.resolve import resolve_model
from kl_lens_desktop.process.cancel import Cancel
from kl_lens_desktop.process.events import Event, Finished, Note, Progress
from kl_lens_desktop.process.job import perform
from tests import hub_server
from tests.hub_server import COMMIT, Hub, Repository, make_old_folder

WEIGHTS = "model.safetensors"
ID = "tiny/hybrid"
FILES = {
    "config.json": b'{"model_type": "mamba2"}',
    "tokenizer.json": b"{}" * 999,
    WEIGHTS: bytes(range(256)) * 12_000,
}
LATER = "0" * 40


@pytest.fixture(params=["links", "no links"])
def layout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With symbolic links and without, as on Windows."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", request.param == "no links")
    return str(request.param)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("KL_LENS_HOME", str(tmp_path / "home"))
    hub_server.go_online(monkeypatch, tmp_path)
    monkeypatch.setattr(refusals, "_FIRST_DELAY_S", 0.01)
    with hub_server.serve({ID: Repository(dict(FILES))}) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def ours(revision: str | None = None, *, move: bool = False) -> list[Event]:
    return list(pull(ID, revision, move=move))


def folder_of(events: list[Event]) -> Path:
    assert isinstance(events[-1], Finished)
    return Path(events[-1].result["folder"])


def theirs(hub: Hub) -> Path:
    return Path(snapshot_download(ID, endpoint=hub.url))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def bodies(hub: Hub, name: str = WEIGHTS) -> list[str | None]:
    """What part of a file was asked for, each time that its bytes were."""
    return [request.headers.get("range") for request in hub.bodies(name) if request.server == "cdn"]


def test_what_we_pulled_they_have(hub: Hub, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = folder_of(ours())
    assert (mine / WEIGHTS).is_symlink() == (layout == "links")
    assert theirs(hub) == mine
    assert bodies(hub) == [None]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert Path(hf_hub_download(ID, WEIGHTS)) == mine / WEIGHTS
    with pytest.raises(LocalEntryNotFoundError):
        hf_hub_download(ID, "absent.txt")


def test_what_they_pulled_we_have(hub: Hub, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = theirs(hub)
    (stored,) = store.list_models()
    assert (stored.id, stored.revision, stored.names, stored.complete) == (ID, COMMIT, {"main"}, True)
    hub.requests.clear()
    assert folder_of(ours()) == folder
    assert [request.path for request in hub.requests] == [f"/api/models/{ID}/revision/main"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    model = resolve_model(ID)
    assert (model.id, model.revision, model.folder) == (ID, COMMIT, folder)
    assert resolve_model(str(folder)) == model


def test_a_part_that_they_pulled_is_completed(hub: Hub, layout: str) -> None:
    hf_hub_download(ID, WEIGHTS, endpoint=hub.url)
    assert store.find(ID) is None
    assert contents(folder_of(ours())) == FILES
    assert bodies(hub) == [None]


@pytest.mark.parametrize("we_are_first", [True, False])
def test_both_at_once_fetch_one_body(hub: Hub, layout: str, we_are_first: bool) -> None:
    hub.gate.clear()
    folders: list[Path] = []
    work: list[Callable[[], Path]] = [lambda: folder_of(ours()), lambda: theirs(hub)]
    first, second = work if we_are_first else reversed(work)
    thread = threading.Thread(target=lambda: folders.append(first()))
    thread.start()
    while not bodies(hub):
        time.sleep(0.01)
    threading.Timer(0.5, hub.gate.set).start()
    folders.append(second())
    thread.join()
    assert folders[0] == folders[1]
    assert contents(folders[0]) == FILES
    assert bodies(hub) == [None]


def test_two_commits_with_one_content_pulled_at_once_fetch_one_body(hub: Hub, layout: str) -> None:
    hub.gate.clear()
    threads = [threading.Thread(target=ours)]
    threads[0].start()
    while not bodies(hub):
        time.sleep(0.01)
    hub.repositories[ID] = Repository({**FILES, "README.md": b"new"}, commit=LATER)
    waits = []
    for event in pull(ID):
        if isinstance(event, Progress) and event.message.startswith("waiting for another program"):
            waits.append(event)
            hub.gate.set()
    threads[0].join()
    assert waits
    assert bodies(hub) == [None]


def test_what_no_commit_names_any_more_takes_no_room(hub: Hub, layout: str) -> None:
    ours()
    hub.repositories[ID] = Repository({**FILES, WEIGHTS: b"new"}, commit=LATER)
    after = folder_of(ours())
    old = store.find(ID, COMMIT)
    assert old is not None
    store.remove_model(old)
    blobs = store.Snapshot(ID, LATER).repository / "blobs"
    assert not [path for path in blobs.iterdir() if path.stat().st_size == len(FILES[WEIGHTS])]
    assert contents(after) == {**FILES, WEIGHTS: b"new"}


def test_a_branch_that_moved_on_costs_only_what_changed(hub: Hub, layout: str) -> None:
    before = folder_of(ours())
    changed = {**FILES, "config.json": b'{"model_type": "mamba2", "use_cache": true}'}
    hub.repositories[ID] = Repository(changed, commit=LATER)
    after = folder_of(ours())
    assert (contents(before), contents(after)) == (FILES, changed)
    assert bodies(hub) == [None]
    assert os.path.samefile(before / WEIGHTS, after / WEIGHTS)
    assert {model.revision: model.names for model in store.list_models()} == {COMMIT: set(), LATER: {"main"}}
    old = store.find(ID, COMMIT)
    assert old is not None
    store.remove_model(old)
    assert contents(after) == changed
    assert [model.revision for model in store.list_models()] == [LATER]


def test_a_file_of_the_same_size_is_not_taken_for_the_same(hub: Hub, layout: str) -> None:
    ours()
    changed = {**FILES, WEIGHTS: bytes(reversed(FILES[WEIGHTS]))}
    hub.repositories[ID] = Repository(changed, commit=LATER)
    assert contents(folder_of(ours())) == changed
    assert contents(folder_of(ours(COMMIT))) == FILES


def test_their_tools_delete_what_we_pulled(hub: Hub, layout: str) -> None:
    ours()
    scan_cache_dir(store.cache()).delete_revisions(COMMIT).execute()
    assert store.list_models() == []
    assert contents(folder_of(ours())) == FILES


def test_a_cache_with_odd_things_in_it_is_read(hub: Hub) -> None:
    folder = folder_of(ours())
    (store.cache() / "models--broken--one" / "refs").mkdir(parents=True)
    (store.cache() / "models--broken--one" / "refs" / "main").write_text(LATER, encoding="utf-8")
    (store.cache() / "notes.txt").write_text("mine", encoding="utf-8")
    for kind in ("datasets", "spaces"):
        (store.cache() / f"{kind}--some--thing" / "snapshots" / LATER).mkdir(parents=True)
    (store.cache() / "models--no--config" / "snapshots" / LATER).mkdir(parents=True)
    assert [model.folder for model in store.list_models()] == [folder]


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
@pytest.mark.parametrize("percent", [0, 50, 96, 100])
def test_a_connection_that_ends_anywhere_costs_nothing_that_arrived(
    hub: Hub, percent: int, reset: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.reset = reset
    size = len(FILES[WEIGHTS])
    hub.drop_after[WEIGHTS] = [size * percent // 100]
    assert contents(folder_of(ours())) == FILES
    first, *more = bodies(hub)
    assert first is None
    if not reset:  # a reset may throw away what the receiver has not read yet
        assert more == ([] if percent == 100 else [f"bytes={size * percent // 100}-" if percent else None])
    assert len(more) <= 1


def refused_in_mid_file(hub: Hub, refuse: Callable[[], None], words: str) -> None:
    """Let a connection break, and what comes then be refused; what had arrived is there afterwards."""
    hub.drop_after[WEIGHTS] = [10**6]
    with pytest.raises(HubError, match=words):
        for event in pull(ID):
            if isinstance(event, Note):
                refuse()
    blobs = store.Snapshot(ID, COMMIT).repository / "blobs"
    assert [path.stat().st_size for path in blobs.glob("*.incomplete")] == [10**6]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "the Hub does not accept your token"),
        (403, "Check the token's permissions"),
        (404, "the Hub has no such model"),
        (429, r"too many requests \(429\)"),
        (503, r"the Hub has a problem \(503\)"),
    ],
)
def test_a_refusal_in_mid_file_costs_nothing_that_arrived(
    hub: Hub, status: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "_FIRST_DELAY_S", 0.2)
    monkeypatch.setattr(refusals, "_ATTEMPTS", 3)
    refused_in_mid_file(hub, lambda: hub.refuse.extend([(status, {})] * 9), words)
    hub.refuse.clear()
    assert contents(folder_of(ours())) == FILES
    assert bodies(hub) == [None, "bytes=1000000-"]


def test_a_portal_in_mid_file_costs_nothing_that_arrived(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "_FIRST_DELAY_S", 0.2)
    refused_in_mid_file(
        hub, lambda: setattr(hub, "login_page", True), "a login page or a proxy may have answered"
    )
    hub.login_page = False
    assert contents(folder_of(ours())) == FILES
    assert bodies(hub) == [None, "bytes=1000000-"]


def test_a_mirror_that_dies_in_mid_file_costs_nothing_that_arrived(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "_FIRST_DELAY_S", 0.2)
    monkeypatch.setattr(refusals, "_ATTEMPTS", 3)
    dead = "http://127.0.0.1:9"
    refused_in_mid_file(hub, lambda: monkeypatch.setenv("HF_ENDPOINT", dead), r"it refused the connection")
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    assert contents(folder_of(ours())) == FILES
    assert bodies(hub) == [None, "bytes=1000000-"]


def test_killed_in_mid_file_the_next_pull_goes_on(hub: Hub, tmp_path: Path) -> None:
    hub.stall, hub.stall_after = WEIGHTS, 2**20
    command = [sys.executable, "-m", "kl_lens_desktop", "pull", ID]
    child = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ)
    )
    blobs = store.Snapshot(ID, COMMIT).repository / "blobs"
    while not any(path.stat().st_size >= 2**19 for path in blobs.glob("*.incomplete")):
        time.sleep(0.01)
    child.kill()
    child.wait()
    (partial,) = [path for path in blobs.glob("*.incomplete") if path.stat().st_size]
    there = partial.stat().st_size
    hub.stall = ""
    assert contents(folder_of(ours())) == FILES
    assert bodies(hub) == [None, f"bytes={there}-"]
    assert not list(blobs.glob("*.incomplete"))


def test_a_silent_server_is_said_and_given_up(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.stall = WEIGHTS
    monkeypatch.setattr(session, "READ_TIMEOUT_S", 0.5)
    monkeypatch.setattr(refusals, "_ATTEMPTS", 2)
    monkeypatch.setattr(transfer, "_SILENT_AFTER_S", 0.2)
    events: list[Event] = []
    with pytest.raises(HubError, match="did not answer in time"):
        for event in pull(ID):
            events.append(event)
    messages = [event.message for event in events if isinstance(event, Progress)]
    assert any(re.fullmatch(r"model\.safetensors, no data for \d s", message) for message in messages)
    assert [event for event in events if isinstance(event, Note)]


def test_a_server_that_trickles_is_given_up(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.trickle = WEIGHTS
    monkeypatch.setattr(refusals, "_ATTEMPTS", 2)
    monkeypatch.setattr(transfer, "_TRICKLE_S", 0.2)
    with pytest.raises(HubError, match="did not answer in time"):
        ours()


def test_four_files_arrive_at_once(hub: Hub) -> None:
    shards = {f"model-0000{i}-of-00004.safetensors": bytes([i]) * 2**20 * 2 for i in range(1, 5)}
    index = {"weight_map": {name: name for name in shards}}
    files = {k: v for k, v in FILES.items() if k != WEIGHTS} | shards
    files["model.safetensors.index.json"] = json.dumps(index).encode()
    hub.repositories[ID] = Repository(files)
    hub.slow_s = 0.3
    events = ours()
    assert contents(folder_of(events)) == files
    told = [event for event in events if isinstance(event, Progress) and event.total]
    assert any("and 3 more" in event.message for event in told)
    assert [event.done for event in told] == sorted(event.done for event in told)
    assert told[-1].done == told[-1].total == sum(map(len, files.values()))
    assert any(event.per_s for event in told)


def test_a_folder_of_an_earlier_version_is_read_and_moved_on_request(
    hub: Hub, layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_old_folder(tmp_path / "home", ID, FILES)
    assert resolve_model(ID).folder == folder
    assert resolve_model(str(folder)).revision == COMMIT
    *_, note, last = ours()
    assert last == Finished({"folder": str(folder), "id": ID, "revision": COMMIT})
    assert isinstance(note, Note)
    assert "`kl-lens pull tiny/hybrid --move`" in note.text
    moved = folder_of(ours(move=True))
    assert contents(moved) == FILES
    assert not folder.exists()
    assert [(model.folder, model.names) for model in store.list_models()] == [(moved, {"main"})]
    assert theirs(hub) == moved
    assert bodies(hub) == []


def test_a_move_to_another_disk_copies_and_can_be_cancelled(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_link)
    folder = make_old_folder(tmp_path / "home", ID, FILES)
    (stored,) = store.list_models()
    cancel = Cancel()
    cancel.cancel()
    with pytest.raises(Cancelled):
        store.move_to_cache(stored, cancel)
    assert contents(folder).items() >= FILES.items()
    assert store.find(ID) == stored
    moved = folder_of(ours(move=True))
    assert contents(moved) == FILES
    assert not folder.exists()


def test_a_half_pulled_or_damaged_old_folder_is_seen_and_removed(hub: Hub, tmp_path: Path) -> None:
    folder = make_old_folder(tmp_path / "home", ID, FILES, complete=False)
    (stored,) = store.list_models()
    assert (stored.complete, stored.old, stored.id) == (False, True, ID)
    (folder / store.OLD_MANIFEST).write_text('{"schema": 7', encoding="utf-8")
    (stored,) = store.list_models()
    assert (stored.complete, stored.revision) == (False, "")
    assert stored.bytes > len(FILES[WEIGHTS])
    store.remove_model(stored)
    assert store.list_models() == []


def test_a_disk_that_becomes_full_is_said_and_keeps_what_arrived(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = transfer._Partial.write

    def fail(part: transfer._Partial, piece: bytes) -> None:
        if part.size > 10**6:
            raise OSError(28, "No space left on device")
        write(part, piece)

    monkeypatch.setattr(transfer._Partial, "write", fail)
    with pytest.raises(InputError, match=r"the disk of .* is full"):
        ours()
    monkeypatch.setattr(transfer._Partial, "write", write)
    assert contents(folder_of(ours())) == FILES
    assert bodies(hub)[1] is not None


def verify(capsys: pytest.CaptureFixture[str], *options: str, status: int = 0) -> str:
    assert run(["verify-files", ID, *options], perform) == status
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_a_flipped_byte_is_found_and_repaired(
    hub: Hub, layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(ours())
    assert verify(capsys).count("as listed") == 3
    with (folder / WEIGHTS).open("r+b") as file:
        file.seek(1_234_567)
        byte = file.read(1)
        file.seek(1_234_567)
        file.write(bytes([byte[0] ^ 1]))
    hub.requests.clear()
    said = verify(capsys, status=1)
    assert f"kl-lens: {ID} is damaged: {WEIGHTS}. Run `kl-lens verify-files {ID} --repair`" in said
    assert bool(hub.requests) == (layout == "no links")  # a blob is named by its hash
    assert "was damaged, downloaded again" in verify(capsys, "--repair")
    assert contents(folder) == FILES
    assert bodies(hub) == [None]
    assert '"damaged": [],' in verify(capsys, "--json")


def test_only_what_came_from_the_hub_is_verified(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no model of that name was pulled" in verify(capsys, status=1)
    make_old_folder(tmp_path / "home", ID, FILES)
    assert verify(capsys).count("as listed") == 3
    assert "Run `kl-lens pull tiny/hybrid --move` first" in verify(capsys, "--repair", status=1)
