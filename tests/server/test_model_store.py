"""A copy on disk: resumed, verified, repaired, and used when the registry is gone."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from modelramp_server.model_store.digest import artifact_digest
from modelramp_server.model_store.failures import ModelNotFound, RegistryUnavailable
from modelramp_server.model_store.fetch import fetch, local_folder
from modelramp_server.model_store.sources import StoreSource
from modelramp_server.runtime.base import ArtifactDamaged
from modelramp_server.settings import FetchSettings, ServeSettings
from tests.server.registry_stub import FILES, RegistryStub, served, wanted

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.usefixtures("impatient"),
]


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


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "weights/../../evil"])
def test_a_listing_that_leads_outside_is_refused(name: str, tmp_path: Path, monkeypatch) -> None:
    listing = SimpleNamespace(list_artifacts=lambda folder: [SimpleNamespace(path=name, is_dir=False, file_size=1)])
    monkeypatch.setattr(StoreSource, "_repository", lambda source: listing)
    with pytest.raises(ArtifactDamaged, match="outside the model"):
        fetch(FetchSettings(model_uri="s3://bucket/model", model_path=str(tmp_path / "models/model")))


def test_only_the_damaged_file_is_fetched_again(stub: RegistryStub, target: Path) -> None:
    fetch(wanted(stub, target))
    stub.asked.clear()
    (target / "weights/a.bin").write_bytes(b"x" * 100_000)
    fetch(wanted(stub, target))
    assert stub.downloads == ["weights/a.bin"]
    stub.asked.clear()
    (target / "weights/b.bin").unlink()
    fetch(wanted(stub, target))
    assert stub.downloads == ["weights/b.bin"]
    (target / "stray").write_text("not of the model")
    fetch(wanted(stub, target))
    assert artifact_digest(target) == artifact_digest(stub.folder)


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
