"""Azure's own server for tests: the store of a disk, by one writer and by two at once."""

from __future__ import annotations

import base64
import hashlib
import hmac
import threading
import urllib.request
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest
from url_writer import UNIT_ROWS, prepare, write

from fungistore.copying.options import CopyOptions
from fungistore.copying.stage import copy_store
from fungistore.remote.bucket import forget_buckets
from fungistore.store.backend import open_backend
from fungistore.store.locks import WHOLE, Slice
from fungistore.store.store import Store
from fungistore.verification.verify import verify_store
from npm_world import npm_server
from s3_world import free_port

AZURITE = "azurite@3.35.0"
ACCOUNT = "devstoreaccount1"  # the only one that it knows, with a key that is published
KEY = base64.b64encode(b"a key of tests, which is none of anybody's account").decode()


def make_container(endpoint: str, name: str) -> None:
    """Make a container, by a request signed with the shared key."""
    heads = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    lines = "".join(f"{key}:{value}\n" for key, value in heads.items())
    signed = f"PUT{12 * chr(10)}{lines}/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    digest = hmac.new(base64.b64decode(KEY), signed.encode(), hashlib.sha256).digest()
    heads["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
    url = f"{endpoint}/{name}?restype=container"
    request = urllib.request.Request(url, method="PUT", headers=heads | {"Content-Length": "0"})
    urllib.request.urlopen(request, timeout=10).close()


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a container."""
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
    (tmp_path / "azurite").mkdir()
    monkeypatch.setenv("AZURITE_ACCOUNTS", f"{ACCOUNT}:{KEY}")
    flags = ("--blobHost", "127.0.0.1", "--blobPort", str(port), "--skipApiVersionCheck")
    with npm_server(AZURITE, "azurite-blob", tmp_path / "azurite", endpoint, *flags):
        make_container(endpoint, "box")
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", endpoint)
        forget_buckets()
        yield "az://box"
    forget_buckets()


@pytest.mark.scale
def test_stores_in_azure_are_those_of_a_disk(container: str, tmp_path: Path) -> None:
    """Written by one, by two at once, and copied down."""
    folder, units = str(tmp_path / "s.fungi"), 40
    places = (folder, f"{container}/one.fungi", f"{container}/two.fungi")
    for place in places:
        prepare(place, units)
    for place in places[:2]:
        write(open_backend(place), 0, WHOLE)
    threads = [
        threading.Thread(target=write, args=(open_backend(places[2]), 0, Slice(index, 2)))
        for index in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    copy_store(places[2], tmp_path / "down.fungi", CopyOptions())
    for place in (*places[1:], tmp_path / "down.fungi"):
        array, there = (Store.open(one).arrays("set")["embeddings"] for one in (folder, place))
        assert there.read(0, units * UNIT_ROWS).tobytes() == array.read(0, array.rows).tobytes()
        assert {unit: one.checksum for unit, one in there.commits().items()} == {
            unit: one.checksum for unit, one in array.commits().items()
        }
        assert verify_store(place).findings == ()
