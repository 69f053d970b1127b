"""Signing, deploying and claiming as people and agents do it, against real servers."""

import dataclasses
import json
import shutil
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import requests

from agent.errors import ExitStatus
from agent.store.layout import LayoutFolder
from agent.store.mirrors import Mirrors
from agent.store.registry import RegistryClient
from agent.store.retry import Retry
from agent.trust.keyring import Keyring, read_key, read_keyring
from agent.trust.minisign import TrustError, render_public_key
from agent.trust.templates import require_signature, signature_tag
from images.build import key_files
from images.cli import main as build
from images.tree import unpack
from netboot.cli.serve import image_warning
from netboot.context import Settings
from netboot.server import close_context, open_context
from netboot.signing import make_key, open_server_key
from tests.conftest import cannot_run
from tests.contracts.api_server import (
    make_hello,
    running,
)
from tests.contracts.registries import REGISTRIES
from tests.contracts.stream_builders import capture, make_source, mixed_bytes
from tests.contracts.trust_shop import Shop

ONCE = Retry(attempts=1)


def test_keys_are_made_for_their_owner_and_told_in_both_forms(shop: Shop) -> None:
    path = shop.key("mine")
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_key(path.with_suffix(".pub")).name in path.with_suffix(".pub").read_text()
    words = ("template", "keygen", "--no-password", "--json", "--output", str(shop.folder / "b"))
    made = json.loads(shop.run(*words)[1])
    assert made["key"] == read_key(shop.folder / "b.pub").name
    status, _, err = shop.run(*words)
    assert status == ExitStatus.USAGE
    assert "exists already" in err


def test_a_password_must_come_from_somewhere(shop: Shop) -> None:
    status, _, err = shop.run("template", "keygen", "--output", str(shop.folder / "k"))
    assert (status, "--password-file" in err) == (ExitStatus.USAGE, True)
    assert not (shop.folder / "k.key").exists()


def test_a_template_is_signed_and_then_trusted(shop: Shop) -> None:
    key = shop.key("mine")
    public = read_key(key.with_suffix(".pub"))
    with pytest.raises(TrustError, match="demo is not signed"):
        require_signature(shop.client, shop.digest, "demo", [public])
    signed = shop.sign(key)
    assert (signed["digest"], signed["key"], signed["template"]) == (
        shop.digest,
        public.name,
        "demo",
    )
    trusted = require_signature(shop.client, shop.digest, "demo", [public])
    assert trusted.signed
    assert trusted.signed.key == public.name
    with pytest.raises(TrustError, match="signed as the template demo, not as other"):
        require_signature(shop.client, shop.digest, "other", [public])


def test_verify_tells_of_signatures_and_exits_by_them(shop: Shop) -> None:
    mine, other = shop.key("mine"), shop.key("other")
    shop.sign(other)
    public = str(mine.with_suffix(".pub"))
    assert shop.ask("template", "verify", "demo", "--key", public)[0] == ExitStatus.REFUSED
    shop.sign(mine)
    status, out, _ = shop.ask("template", "verify", "demo", "--key", public)
    assert (status, "signed by" in out) == (0, True)


def test_signing_again_replaces_ones_own_and_keeps_others(shop: Shop) -> None:
    mine, other = shop.key("mine"), shop.key("other")
    assert [shop.sign(key)["signatures"] for key in (mine, other, mine)] == [1, 2, 2]
    for key in (mine, other):
        public = read_key(key.with_suffix(".pub"))
        assert require_signature(shop.client, shop.digest, "demo", [public]).signed


def test_minisign_takes_what_is_kept_in_the_store(shop: Shop) -> None:
    if not shutil.which("minisign"):
        cannot_run("minisign is not installed")
    key = shop.key("mine")
    shop.sign(key)
    listed = json.loads(shop.client.manifest(signature_tag(shop.digest))[0])
    blob = listed["layers"][0]["digest"]
    headers = {"Authorization": f"Bearer {shop.api.token}"}
    url = f"{shop.api.url}/v2/demo"
    manifest = requests.get(f"{url}/manifests/{shop.digest}", headers=headers, timeout=10).content
    (shop.folder / "manifest").write_bytes(manifest)
    signature = requests.get(f"{url}/blobs/{blob}", headers=headers, timeout=10).content
    (shop.folder / "sig").write_bytes(signature)
    words = ["minisign", "-V", "-p", "mine.pub", "-m", "manifest", "-x", "sig"]
    shown = subprocess.run(words, cwd=shop.folder, capture_output=True, text=True, check=True)
    assert f"metalcast template=demo digest={shop.digest} signed=" in shown.stdout


def test_what_a_signature_is_kept_in_is_no_template(shop: Shop) -> None:
    shop.sign(shop.key("mine"))
    assert [one["tag"] for one in shop.api.get("/api/v1/templates").json()] == ["latest"]


def test_signatures_live_and_go_with_their_template(shop: Shop) -> None:
    shop.sign(shop.key("mine"))
    tag = signature_tag(shop.digest)
    store = shop.api.context.templates.store
    store.gc(0)
    assert shop.client.find_manifest(tag) is not None
    assert shop.ask("template", "rm", "demo")[0] == 0
    assert shop.client.find_manifest(tag) is None
    time.sleep(0.01)
    store.gc(0)
    assert not list((store.root / "blobs").glob("sha256/*/*"))


def test_signatures_whose_template_never_came_are_swept(shop: Shop) -> None:
    shop.sign(shop.key("mine"))
    data, _ = shop.client.manifest(signature_tag(shop.digest))
    lone = "sha256:" + "0" * 64
    shop.client.put_manifest(data.replace(shop.digest.encode(), lone.encode()), "lone.minisig")
    store = shop.api.context.templates.store
    store.gc(3600)
    assert shop.client.find_manifest("lone.minisig") is not None
    store.gc(0)
    assert shop.client.find_manifest("lone.minisig") is None
    assert shop.client.find_manifest(signature_tag(shop.digest)) is not None


def test_signatures_travel_with_a_template(shop: Shop) -> None:
    key = shop.key("mine")
    shop.sign(key)
    folder = shop.folder / "exported"
    status, _, err = shop.ask("template", "export", "demo", str(folder))
    assert status == 0, err
    public = read_key(key.with_suffix(".pub"))
    assert require_signature(LayoutFolder(folder), shop.digest, "demo", [public]).signed


@pytest.mark.parametrize("registry", sorted(REGISTRIES))
def test_every_registry_holds_signatures(registry: str, shop: Shop) -> None:
    key = shop.key("mine")
    (shop.folder / "other").mkdir()
    with REGISTRIES[registry](shop.folder / "other") as url:
        client = RegistryClient(url, "demo", retry=ONCE)
        digest = capture(client, make_source(shop.folder, mixed_bytes(100_000, 2))).digest
        assert client.find_manifest(signature_tag(digest)) is None
        shop.sign(key, f"{url}/v2/demo")
        public = read_key(key.with_suffix(".pub"))
        assert require_signature(client, digest, "demo", [public]).signed
        client.close()


def test_of_several_mirrors_one_needs_the_signatures(shop: Shop) -> None:
    shop.sign(key := shop.key("mine"))
    public = read_key(key.with_suffix(".pub"))
    (shop.folder / "bare").mkdir()
    with REGISTRIES["netboot"](shop.folder / "bare") as url:
        bare = RegistryClient(url, "demo", retry=ONCE)
        capture(bare, make_source(shop.folder, mixed_bytes(200_000, 1)))
        assert require_signature(Mirrors([bare, shop.client]), shop.digest, "demo", [public]).signed
        bare.close()


# the server's own key


def test_a_server_keeps_its_key(tmp_path: Path) -> None:
    key = open_server_key(tmp_path)
    assert open_server_key(tmp_path) == key
    assert (tmp_path / "server.key").stat().st_mode & 0o777 == 0o600
    assert read_key(tmp_path / "server.pub") == key.public
    (tmp_path / "server.pub").unlink()
    assert open_server_key(tmp_path) == key
    assert read_key(tmp_path / "server.pub") == key.public
    (tmp_path / "server.key").unlink()
    assert open_server_key(tmp_path) != key, "a new one, with its own public half"
    assert read_key(tmp_path / "server.pub") == open_server_key(tmp_path).public


def test_a_server_goes_on_with_its_key_and_an_older_database(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path / "data")
    context, _ = open_context(settings)
    name = context.signer.public.name
    close_context(context)
    with sqlite3.connect(tmp_path / "data" / "state.sqlite") as db:
        db.execute("ALTER TABLE machines DROP COLUMN keys")
        db.execute("PRAGMA user_version = 1")
    db.close()
    with running(tmp_path / "data") as api:
        assert api.context.signer.public.name == name
        assert api.post("/api/v1/agents/hello", make_hello()).status_code == 200


def test_an_image_that_will_refuse_this_server_is_noticed(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.json"
    assert image_warning(tmp_path, "A") is None
    for keys, is_right in ((["A", "B"], True), ([], True), (["B"], False)):
        manifest.write_text(json.dumps({"server_keys": keys}))
        assert (image_warning(tmp_path, "A") is None) is is_right
    assert "takes jobs signed by B, not by A" in (image_warning(tmp_path, "A") or "")
    manifest.write_text("[]")
    assert image_warning(tmp_path, "A") is None


# the image


def test_an_image_holds_the_keys_as_the_agent_reads_them(tmp_path: Path) -> None:
    one, two = make_key(), make_key()
    twin = replace_id(two, one.key_id)
    ring = Keyring((one.public, twin.public), (two.public,))
    unpack(key_files(ring), tmp_path)
    found = read_keyring(tmp_path / "etc/metalcast/keys")
    assert set(found.templates) == {one.public, twin.public}
    assert found.server == (two.public,)
    again = Keyring((twin.public, one.public), (two.public,))
    assert dict(key_files(ring)) == dict(key_files(again))
    assert not key_files(Keyring())


def replace_id(key: Any, key_id: bytes) -> Any:
    return dataclasses.replace(key, key_id=key_id)


def test_build_image_refuses_a_key_that_is_none(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pub"
    bad.write_text(render_public_key(make_key().public)[:-9])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["x", "--output", str(tmp_path), "--template-key", str(bad)])
        assert build() == ExitStatus.REFUSED
    assert not (tmp_path / "vmlinuz").exists()
