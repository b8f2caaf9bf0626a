"""Copies on disk: resumed, verified, shared by processes, evicted, and used when the registry is gone."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelramp_server.model_store import locks
from modelramp_server.model_store.digest import artifact_digest
from modelramp_server.model_store.failures import ModelNotFound, RegistryUnavailable
from modelramp_server.model_store.fetch import fetch, local_folder
from modelramp_server.runtime.base import ArtifactDamaged
from modelramp_server.settings import FetchSettings, ServeSettings
from tests.server.registry_stub import RegistryStub, registry_stub
from tests.server.served import eventually

pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore::DeprecationWarning")]
FILES = ["MLmodel", "model.onnx", "weights/a.bin", "weights/b.bin"]
DIGITS = "models:/digits/1"


@pytest.fixture(autouse=True)
def _quick_to_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")


@pytest.fixture
def stub(tmp_path: Path, lookup_model: Path) -> Iterator[RegistryStub]:
    folder = tmp_path / "store"
    shutil.copytree(lookup_model, folder)
    (folder / "weights").mkdir()
    (folder / "weights/a.bin").write_bytes(b"a" * 100_000)
    (folder / "weights/b.bin").write_bytes(b"b" * 200_000)
    with registry_stub(folder) as running:
        yield running


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "models" / "model"


def wanted(stub: RegistryStub, target: Path, uri: str = DIGITS, **changes: Any) -> FetchSettings:
    return FetchSettings(model_uri=uri, mlflow_tracking_uri=stub.address, model_path=str(target), **changes)


def served(stub: RegistryStub, cache: Path, uri: str = DIGITS, **changes: Any) -> ServeSettings:
    return ServeSettings(model_path=uri, mlflow_tracking_uri=stub.address, model_cache=cache, **changes)


def command(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "modelramp_server", *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_fetch_that_was_cut_off_goes_on_with_the_files_that_are_missing(stub: RegistryStub, target: Path) -> None:
    stub.broken = {"weights/b.bin"}
    with pytest.raises(RegistryUnavailable, match=r"weights/b\.bin"):
        fetch(wanted(stub, target))
    assert not target.exists()
    first = stub.downloads
    stub.asked.clear()
    stub.broken = set()
    fetch(wanted(stub, target))
    assert sorted([*set(first) - {"weights/b.bin"}, *stub.downloads]) == FILES, "each is downloaded once"
    assert artifact_digest(target) == artifact_digest(stub.folder)
    assert not target.with_name("model.partial").exists()


def test_what_is_left_of_an_attempt_is_not_trusted_if_it_was_damaged_since(stub: RegistryStub, target: Path) -> None:
    stub.broken = {"weights/b.bin"}
    with pytest.raises(RegistryUnavailable):
        fetch(wanted(stub, target))
    (target.with_name("model.partial") / "whole/MLmodel").write_bytes(b"x" * (stub.folder / "MLmodel").stat().st_size)
    stub.broken = set()
    fetch(wanted(stub, target))
    assert artifact_digest(target) == artifact_digest(stub.folder)


def test_an_attempt_at_a_version_made_anew_since_is_not_gone_on_with(stub: RegistryStub, target: Path) -> None:
    stub.broken = {"weights/b.bin"}
    with pytest.raises(RegistryUnavailable):
        fetch(wanted(stub, target))
    (stub.folder / "weights/a.bin").write_bytes(b"c" * 100_000)
    stub.created, stub.broken = 2000, set()
    fetch(wanted(stub, target))
    assert (target / "weights/a.bin").read_bytes() == b"c" * 100_000


def test_a_file_of_another_size_than_listed_is_refused(stub: RegistryStub, target: Path, monkeypatch) -> None:
    listed = stub._entry
    monkeypatch.setattr(
        stub, "_entry", lambda path: {**listed(path), "file_size": 7} if path.is_file() else listed(path)
    )
    with pytest.raises(RegistryUnavailable, match="its store says 7"):
        fetch(wanted(stub, target))
    assert not target.exists()


def test_a_listing_that_leads_outside_is_refused(stub: RegistryStub, target: Path, monkeypatch) -> None:
    monkeypatch.setattr(stub, "_entry", lambda path: {"path": "../evil", "is_dir": False, "file_size": 1})
    with pytest.raises((ArtifactDamaged, RegistryUnavailable)):
        fetch(wanted(stub, target))
    assert not (target.parent / "evil").exists() and stub.downloads == []


def test_only_the_damaged_file_is_fetched_again(stub: RegistryStub, target: Path) -> None:
    fetch(wanted(stub, target))
    stub.asked.clear()
    (target / "weights/a.bin").write_bytes(b"x" * 100_000)
    fetch(wanted(stub, target))
    assert stub.downloads == ["weights/a.bin"]
    stub.asked.clear()
    (target / "weights/b.bin").unlink()
    (target / "stray").write_text("not of the model")
    fetch(wanted(stub, target))
    assert stub.downloads == ["weights/b.bin"] and artifact_digest(target) == artifact_digest(stub.folder)


def test_a_copy_that_lost_its_manifest_between_two_renames_is_whole_again(stub: RegistryStub, target: Path) -> None:
    fetch(wanted(stub, target))
    manifest = target.with_name("model.manifest")
    document = json.loads(manifest.read_text())
    partial = target.with_name("model.partial")
    partial.mkdir()
    lines = [{"identity": document["identity"], "bytes": 1}, *document["files"]]
    (partial / "journal").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"name": "cut o')
    manifest.unlink()
    stub.asked.clear()
    fetch(wanted(stub, target))
    assert stub.downloads == [] and manifest.exists() and not partial.exists()


def test_a_folder_of_somebody_else_is_left_alone(stub: RegistryStub, target: Path) -> None:
    target.mkdir(parents=True)
    (target / "thesis.tex").write_text("years of work")
    with pytest.raises(ArtifactDamaged, match="holds what was not fetched"):
        fetch(wanted(stub, target))
    assert (target / "thesis.tex").read_text() == "years of work"


def test_the_registry_is_gone_and_the_copy_of_that_version_is_used_and_no_other(
    stub: RegistryStub, target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fetch(wanted(stub, target))
    stub.stop()
    fetch(wanted(stub, target))
    assert "the copy of models:/digits/1 that is here is used" in caplog.text
    with pytest.raises(RegistryUnavailable):
        fetch(wanted(stub, target, "models:/digits/2"))
    with pytest.raises(RegistryUnavailable):
        fetch(wanted(stub, target, model_digest="sha256:00"))
    (target / "weights/a.bin").write_bytes(b"x" * 100_000)
    with pytest.raises(RegistryUnavailable):
        fetch(wanted(stub, target))


def test_a_version_that_was_deleted_is_not_served_from_its_copy(stub: RegistryStub, target: Path, monkeypatch) -> None:
    fetch(wanted(stub, target))
    monkeypatch.setattr(stub, "_answer", lambda request: stub._send(request, 404, {
        "error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Model Version not found"}))  # fmt: skip
    with pytest.raises(ModelNotFound):
        fetch(wanted(stub, target))


def test_a_version_deleted_and_made_anew_is_fetched_again(stub: RegistryStub, target: Path) -> None:
    fetch(wanted(stub, target))
    (stub.folder / "weights/a.bin").write_bytes(b"c" * 100_000)
    stub.created = 2000
    fetch(wanted(stub, target))
    assert (target / "weights/a.bin").read_bytes() == b"c" * 100_000


def test_with_the_digest_wanted_the_registry_is_not_asked(stub: RegistryStub, target: Path) -> None:
    fetch(wanted(stub, target))
    stub.asked.clear()
    fetch(wanted(stub, target, model_digest=artifact_digest(stub.folder)))
    assert stub.asked == []


def test_two_processes_fetch_once(stub: RegistryStub, target: Path, tmp_path: Path) -> None:
    go_on = threading.Event()
    stub.held = dict.fromkeys(FILES, go_on)
    flags = ["fetch", "--model-uri", DIGITS, "--mlflow-tracking-uri", stub.address]
    flags += ["--model-cache", str(tmp_path / "cache"), "--model"]
    first = command(*flags, str(tmp_path / "one/model"))
    eventually(lambda: bool(stub.downloads))
    second = command(*flags, str(tmp_path / "two/model"))
    assert second.stdout is not None
    waits = next(line for line in second.stdout if "waiting" in line)
    assert "another process is at models:/digits/1" in waits
    go_on.set()
    outputs = [first.communicate(timeout=60)[0], second.communicate(timeout=60)[0]]
    assert (first.returncode, second.returncode) == (0, 0), outputs
    assert stub.downloads == FILES
    for one in ("one", "two"):
        assert artifact_digest(tmp_path / one / "model") == artifact_digest(stub.folder)


def test_a_fetcher_killed_in_its_tracks_leaves_no_lock_and_its_files(stub: RegistryStub, target: Path) -> None:
    stub.held = {"weights/b.bin": threading.Event()}
    flags = ["fetch", "--model-uri", DIGITS, "--mlflow-tracking-uri", stub.address, "--model", str(target)]
    first = command(*flags)
    journal = target.with_name("model.partial") / "journal"
    eventually(lambda: journal.exists() and journal.read_text().count("\n") == len(FILES))
    first.kill()
    first.communicate(timeout=30)
    stub.held["weights/b.bin"].set()
    stub.asked.clear()
    fetch(wanted(stub, target))
    assert stub.downloads == ["weights/b.bin"]


def test_the_longest_unused_copy_goes_first_and_never_one_in_use(
    stub: RegistryStub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    limit = int(2.5 * sum(path.stat().st_size for path in stub.folder.rglob("*") if path.is_file()))

    def there() -> list[str]:
        return sorted(path.parent.name.rsplit("-", 1)[0] for path in cache.glob("*/model"))

    with monkeypatch.context() as ended:  # processes that used them, and are no more
        ended.setattr(locks, "share_for_good", lambda path: None)
        for number, moment in (("1", 2000), ("2", 1000)):
            local_folder(served(stub, cache, f"models:/digits/{number}", model_cache_limit=limit))
            (used,) = cache.glob(f"digits-{number}-*.used")
            os.utime(used, (moment, moment))
    assert there() == ["digits-1", "digits-2"]
    local_folder(served(stub, cache, "mlflow-artifacts:/m", model_cache_limit=limit))
    assert there() == ["digits-1", "m"], "version 2 was used longest ago"
    local_folder(served(stub, cache, "models:/digits/2", model_cache_limit=limit))
    assert there() == ["digits-2", "m"]
    with pytest.raises(RegistryUnavailable, match="the rest is in use, and MODEL_CACHE_LIMIT is"):
        local_folder(served(stub, cache, "models:/digits/1", model_cache_limit=limit))
    assert there() == ["digits-2", "m"], "what this process uses stays"


def test_a_copy_being_fetched_counts_with_what_it_will_have_and_stays(stub: RegistryStub, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    go_on = threading.Event()
    stub.held = {"weights/b.bin": go_on}
    size = sum(path.stat().st_size for path in stub.folder.rglob("*") if path.is_file())
    fetcher = threading.Thread(target=lambda: local_folder(served(stub, cache)))
    fetcher.start()
    eventually(lambda: "weights/b.bin" in stub.downloads)
    with pytest.raises(RegistryUnavailable, match="no room"):
        local_folder(served(stub, cache, "models:/digits/2", model_cache_limit=int(1.5 * size)))
    go_on.set()
    fetcher.join(60)
    assert [path.name for path in cache.glob("digits-1-*/model/MLmodel")] == ["MLmodel"]


def test_an_address_without_a_version_is_fetched_again_unless_its_digest_is_named(
    stub: RegistryStub, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    files = "mlflow-artifacts:/m"
    folder = local_folder(served(stub, cache, files))
    (stub.folder / "weights/a.bin").write_bytes(b"c" * 100_000)
    assert local_folder(served(stub, cache, files)) == folder
    assert (folder / "weights/a.bin").read_bytes() == b"c" * 100_000
    digest = artifact_digest(folder)
    stub.stop()
    with pytest.raises(RegistryUnavailable, match=f"MODEL_DIGEST={digest} allows it"):
        local_folder(served(stub, cache, files))
    assert local_folder(served(stub, cache, files, model_digest=digest)) == folder


def test_a_folder_of_this_machine_is_copied_and_verified(lookup_model: Path, tmp_path: Path) -> None:
    target = tmp_path / "model"
    for uri in (str(lookup_model), lookup_model.as_uri()):
        fetch(FetchSettings(model_uri=uri, model_path=str(target)))
        assert artifact_digest(target) == artifact_digest(lookup_model)
    assert local_folder(ServeSettings(model_path=lookup_model.as_uri())) == lookup_model
    with pytest.raises(ArtifactDamaged, match="expected was sha256:00"):
        local_folder(ServeSettings(model_path=str(lookup_model), model_digest="sha256:00"))


def test_more_than_the_disk_has_free_is_not_begun(stub: RegistryStub, target: Path, monkeypatch) -> None:
    listed = stub._entry
    monkeypatch.setattr(
        stub, "_entry", lambda path: {**listed(path), "file_size": 10**16} if path.is_file() else listed(path)
    )
    with pytest.raises(RegistryUnavailable, match=r"the disk is full at .* free of .*, 36380 TiB are needed"):
        fetch(wanted(stub, target))
    assert stub.downloads == []


_SMALL_DISK = """
mount -t tmpfs -o size=256k tmpfs "$1" && shift && exec "$@"
"""


def test_a_disk_that_is_full_is_said_so(stub: RegistryStub, tmp_path: Path) -> None:
    stub.sizes = False  # or the fetch would not begin
    small = tmp_path / "small"
    small.mkdir()
    space = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*space, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no user namespaces here")
    told = tmp_path / "termination-log"
    flags = ["fetch", "--model-uri", DIGITS, "--mlflow-tracking-uri", stub.address, "--model", str(small / "model")]
    fetching = [sys.executable, "-W", "ignore", "-m", "modelramp_server", *flags, "--termination-log", str(told)]
    done = subprocess.run(
        [*space, "sh", "-c", _SMALL_DISK, "sh", str(small), *fetching], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    document = json.loads(told.read_text())
    assert document["reason"] == "RegistryUnavailable"
    assert "the disk is full" in document["message"] and "of 256 KiB" in document["message"], document
    assert "Traceback" not in done.stderr


def test_a_file_larger_than_allowed_is_said_so(stub: RegistryStub, target: Path, tmp_path: Path) -> None:
    told = tmp_path / "termination-log"
    limited = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000)); "
    main = "from modelramp_server.cli import main; main(sys.argv[1:])"
    flags = ["fetch", "--model-uri", DIGITS, "--mlflow-tracking-uri", stub.address, "--model", str(target)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", limited + main, *flags, "--termination-log", str(told)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "File too large" in json.loads(told.read_text())["message"], done.stderr


def test_a_lock_is_free_again_when_its_holder_is_done(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    with locks.exclusive(one, "one"):
        with locks.if_free(other, one) as free:
            assert not free
        with locks.if_free(other) as free:
            assert free
    with locks.if_free(other, one) as free:
        assert free
    locks.share_for_good(other)
    with locks.if_free(one, other) as free:
        assert not free
