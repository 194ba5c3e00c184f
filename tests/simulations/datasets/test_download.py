"""Published files arrive whole and right, or not at all; from a real HTTP server."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from commonroot.common.errors import ConfigError, DownloadFailed
from commonroot.simulations.datasets import DATASETS, get
from commonroot.simulations.datasets.download import Published, PublishedFile, download, published

ROWS = b"a,b\n1,2\n"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def site(tmp_path):
    """A folder that a server on loopback serves, and its URL."""
    folder = tmp_path / "site"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def offer(monkeypatch, *files, **fields):
    described = Published(**({"licence": "free", "open": True, "page": "a page", "files": files} | fields))
    monkeypatch.setattr("commonroot.simulations.datasets.download.published", lambda: {"set": described})


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def test_a_file_is_fetched_once_and_then_known(site, tmp_path, monkeypatch):
    folder, url = site
    (folder / "rows.csv").write_bytes(ROWS)
    offer(monkeypatch, PublishedFile("deep/rows.csv", sha256(ROWS), f"{url}/rows.csv"))
    assert download("set", tmp_path / "to") == {"fetched": 1, "there": 0}
    assert (tmp_path / "to/set/deep/rows.csv").read_bytes() == ROWS
    (folder / "rows.csv").unlink()
    assert download("set", tmp_path / "to") == {"fetched": 0, "there": 1}


def test_another_content_is_refused_and_not_kept(site, tmp_path, monkeypatch):
    folder, url = site
    (folder / "rows.csv").write_bytes(ROWS + b"3,4\n")
    offer(monkeypatch, PublishedFile("rows.csv", sha256(ROWS), f"{url}/rows.csv"))
    with pytest.raises(DownloadFailed, match="not what was published"):
        download("set", tmp_path / "to")
    assert not list((tmp_path / "to").rglob("*.csv*"))


def test_a_file_that_somebody_changed_is_fetched_again(site, tmp_path, monkeypatch):
    folder, url = site
    (folder / "rows.csv").write_bytes(ROWS)
    offer(monkeypatch, PublishedFile("rows.csv", sha256(ROWS), f"{url}/rows.csv"))
    download("set", tmp_path / "to")
    (tmp_path / "to/set/rows.csv").write_bytes(b"spoilt")
    assert download("set", tmp_path / "to")["fetched"] == 1
    assert (tmp_path / "to/set/rows.csv").read_bytes() == ROWS


def test_a_server_that_has_nothing_is_named(site, tmp_path, monkeypatch):
    _, url = site
    offer(monkeypatch, PublishedFile("rows.csv", sha256(ROWS), f"{url}/rows.csv"))
    with pytest.raises(DownloadFailed, match=r"rows\.csv cannot be fetched: HTTPStatusError"):
        download("set", tmp_path / "to")


def test_files_come_out_of_an_archive_by_their_own_names_alone(site, tmp_path, monkeypatch):
    folder, url = site
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("top/rows.csv", ROWS)
        archive.writestr("../../outside.csv", ROWS)
    (folder / "all.zip").write_bytes(packed.getvalue())
    offer(monkeypatch, PublishedFile("rows.csv", sha256(ROWS)), archive=f"{url}/all.zip", prefix="top/")
    assert download("set", tmp_path / "to")["fetched"] == 1
    assert [path.name for path in (tmp_path / "to").rglob("*") if path.is_file()] == ["rows.csv"]
    assert not list(tmp_path.rglob("outside.csv"))


def test_an_archive_without_the_file_is_refused(site, tmp_path, monkeypatch):
    folder, url = site
    (folder / "all.zip").write_bytes(b"no archive at all")
    offer(monkeypatch, PublishedFile("rows.csv", sha256(ROWS)), archive=f"{url}/all.zip")
    with pytest.raises(DownloadFailed, match="not the archive that was published"):
        download("set", tmp_path / "to")


def test_terms_must_be_accepted_first(site, tmp_path, monkeypatch):
    folder, url = site
    (folder / "rows.csv").write_bytes(ROWS)
    offer(monkeypatch, PublishedFile("rows.csv", sha256(ROWS), f"{url}/rows.csv"), open=False, licence="research only")
    with pytest.raises(ConfigError, match="research only"):
        download("set", tmp_path / "to")
    assert not (tmp_path / "to").exists()
    assert download("set", tmp_path / "to", accept=True)["fetched"] == 1


def test_what_needs_a_person_is_asked_for_and_then_checked(tmp_path, monkeypatch):
    offer(monkeypatch, PublishedFile("rows.csv", sha256(ROWS)))
    with pytest.raises(ConfigError, match=r"rows\.csv cannot be fetched without a person"):
        download("set", tmp_path / "to")
    (tmp_path / "to/set").mkdir(parents=True)
    (tmp_path / "to/set/rows.csv").write_bytes(ROWS)
    assert download("set", tmp_path / "to") == {"fetched": 0, "there": 1}


def test_every_dataset_is_either_published_or_made_here():
    folders = {get(name).folder for name in DATASETS}
    assert folders - {""} == set(published())
    for described in published().values():
        assert all(len(file.sha256) == 64 for file in described.files)
        assert all(file.url is None or file.url.startswith("https://") for file in described.files)
