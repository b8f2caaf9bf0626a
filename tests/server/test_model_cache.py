"""Copies that processes share: fetched once, kept while in use, removed for room; and disks that are too small."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from modelramp_server.model_store import locks
from modelramp_server.model_store.digest import artifact_digest
from modelramp_server.model_store.failures import RegistryUnavailable
from modelramp_server.model_store.fetch import fetch, local_folder
from modelramp_server.settings import InvalidSettings
from tests.server.registry_stub import DIGITS, FILES, RegistryStub, served, wanted
from tests.server.served import eventually

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.usefixtures("impatient"),
]


def command(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "modelramp_server", *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


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
    assert done.returncode == 1, done.stderr
    assert f"can't be written to {target}: File too large" in json.loads(told.read_text())["message"]


def test_a_user_without_a_home_names_the_cache(
    stub: RegistryStub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 2)  # whom /etc/passwd does not know
    with pytest.raises(InvalidSettings, match=r"^MODEL_CACHE \(--model-cache\) is not set, and this user has no home"):
        local_folder(served(stub, None))
    assert local_folder(served(stub, tmp_path / "cache")).is_dir()


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
