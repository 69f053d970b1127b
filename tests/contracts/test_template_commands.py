"""`metalcast template show/ls/verify/diff/import` against a real server with captured templates."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.model.template import CONFIG_TYPE, Descriptor, Hole, Manifest
from agent.model.wire import encode
from agent.store.pack import BlobWriter
from agent.store.registry import RegistryClient
from agent.store.target import RegistryTarget
from agent.store.template import open_template
from agent.store.upload import ResumedUpload
from agent.stream.capture import capture_template
from agent.units import MiB
from netboot.cli.words import main
from tests.contracts.api_server import Api
from tests.contracts.stream_builders import make_config, make_source, mixed_bytes

SIZE = 16 * MiB
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    token = tmp_path / "token"
    token.write_text(f"{api.token}\n")

    def run(*words: str) -> tuple[int, str, str]:
        status = main(["template", *words, "--server", api.url, "--token-file", str(token)])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def put(api: Api, folder: Path, data: bytes, tag: str, **changes: Any) -> str:
    """Capture `data` as `demo:tag`; return the digest."""
    client = RegistryClient(api.url, "demo", api.token)
    source = make_source(folder, data)
    config = msgspec.structs.replace(make_config(source.volume), **changes)
    done = capture_template(RegistryTarget(client), config, [source], tag=tag, pack_bytes=4 * MiB)
    client.close()
    return done.digest


def with_holes(api: Api, reference: str, *holes: Hole) -> None:
    """Put `demo:holed`, the same template with something lost."""
    client = RegistryClient(api.url, "demo", api.token)
    template = open_template(client, reference)
    config = msgspec.structs.replace(template.config, format=2, holes=holes)
    blob = BlobWriter(ResumedUpload(client))
    blob.write(encode(config))
    described: Descriptor = blob.finish(CONFIG_TYPE, {})
    manifest: Manifest = msgspec.structs.replace(template.manifest, config=described)
    client.put_manifest(encode(manifest), "holed")
    client.close()


def test_damage_on_the_source_is_shown_loudly(api: Api, call: Call, tmp_path: Path) -> None:
    put(api, tmp_path, mixed_bytes(SIZE, seed=1), "latest")
    with_holes(api, "latest", Hole(volume="root", offset=4096, size=8192))
    listed = call("ls")[1].splitlines()
    assert [line.endswith("DAMAGED") for line in listed] == [False, True, False]
    status, out, _ = call("show", "demo:holed")
    assert status == 0
    assert out.startswith("DAMAGED: 8.0 KiB could not be read on the source and are zeros:\n")
    assert "  root: 8.0 KiB at 4096\n" in out
    assert "DAMAGED" not in call("show", "demo")[1]
    lost = "8.0 KiB could not be read on the source and are zeros\n"
    assert f"LOST       {lost}" in call("verify", "demo:holed")[1]
    assert f"DAMAGED: {lost}" in call("copy", "demo:holed", f"{tmp_path}/out")[1]
    shown = json.loads(call("show", "demo:holed", "--json")[1])
    assert shown["summary"]["lost_bytes"] == 8192
    assert shown["signatures"] == []


def test_verify_finds_every_kind_of_damage(api: Api, call: Call, tmp_path: Path) -> None:
    put(api, tmp_path, mixed_bytes(SIZE, seed=2), "latest")
    status, out, _ = call("verify", "demo", "--deep")
    assert status == 0, out
    assert "signature  none: it is unsigned" in out
    assert "4 chunks" in out
    client = RegistryClient(api.url, "demo", api.token)
    packs = open_template(client, "latest").manifest.packs
    client.close()
    files = [api.context.templates.store.blob("demo", pack.digest).path for pack in packs]
    flip(files[0])
    assert call("verify", "demo")[0] == 0  # it is there, in its size
    status, out, _ = call("verify", "demo", "--deep")
    assert status == 3
    assert out.count("DAMAGED") == 1
    assert f"in pack {packs[0].digest[:19]} does not have the digest" in out
    told = json.loads(call("verify", "demo", "--deep", "--json")[1])
    assert not told["is_good"]
    assert len(told["checked"]["damage"]) == 1
    files[-1].unlink()
    status, out, _ = call("verify", "demo")
    assert status == 3
    assert packs[-1].digest in out


def flip(path: Path) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_diff_counts_chunks_by_content(api: Api, call: Call, tmp_path: Path) -> None:
    data = bytearray(mixed_bytes(SIZE, seed=3))
    put(api, tmp_path, bytes(data), "a")
    data[5 * MiB] ^= 1
    put(api, tmp_path, bytes(data) + bytes(4 * MiB) + b"x" * MiB, "b", captured_by="metalcast 9")
    assert call("diff", "demo:a", "demo:a") == (0, "the two are the same\n", "")
    found = json.loads(call("diff", "demo:a", "demo:b", "--json")[1])
    (root,) = found["volumes"]
    assert (root["volume"], root["state"]) == ("root", "changed")
    assert root["chunks"] == {
        "same": {"chunks": 3, "bytes": 12 * MiB},
        "changed": {"chunks": 1, "bytes": 4 * MiB},
        "added": {"chunks": 2, "bytes": 5 * MiB},
        "removed": {"chunks": 0, "bytes": 0},
    }
    changed = {change["what"]: (change["before"], change["after"]) for change in root["changes"]}
    assert changed["size_bytes"] == (SIZE, SIZE + 5 * MiB)
    assert {"what": "captured_by", "before": "metalcast 0.1.0", "after": "metalcast 9"} in found[
        "facts"
    ]
    back = json.loads(call("diff", "demo:b", "demo:a", "--json")[1])["volumes"][0]["chunks"]
    assert back["removed"] == {"chunks": 2, "bytes": 5 * MiB}
    out = call("diff", "demo:a", "demo:b")[1]
    assert "root    changed  3 (12.0 MiB)  1 (4.0 MiB)  2 (5.0 MiB)  0" in out
    assert "captured_by" in out


def test_a_template_that_is_imported_keeps_its_name(api: Api, call: Call, tmp_path: Path) -> None:
    digest = put(api, tmp_path, mixed_bytes(SIZE, seed=4), "v7")
    folder = tmp_path / "out"
    assert call("export", "demo:v7", f"{folder}:v7")[0] == 0
    assert call("rm", "demo:v7")[0] == 0
    status, out, _ = call("import", f"{folder}:v7")
    assert status == 0
    assert f"demo:v7 is {digest}" in out
    flip(folder / "blobs" / "sha256" / biggest(folder))
    status, _, err = call("import", f"{folder}:v7", "demo:again")
    assert status == 0, err  # every blob is there already, whole
    store = api.context.templates.store
    store.delete_template("demo:v7")
    store.delete_template("demo:again")
    store.gc(0.0)
    status, _, err = call("import", f"{folder}:v7", "again")
    assert status == 3
    assert "is damaged" in err
    assert store.templates() == ()


def biggest(folder: Path) -> str:
    blobs = (folder / "blobs" / "sha256").iterdir()
    return max(blobs, key=lambda path: path.stat().st_size).name


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (("export", "nothing", "/tmp/none"), 3, "nothing:latest"),
        (("import", "/nowhere"), 3, "oci-layout is missing"),
        (("copy", "nothing", "http://127.0.0.1:1/folder"), 2, "cannot be written to"),
        (("copy", "nothing", "elsewhere@sha256:" + "0" * 64), 2, "give a tag there"),
        (("verify", "http://127.0.0.1:1/folder", "--from-user", "ada"), 2, "belong together"),
        (("diff", "nothing", "nothing"), 3, "404"),
    ],
)
def test_what_cannot_be_done_is_said(
    call: Call, words: tuple[str, ...], status: int, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _, err = call(*words)
    assert found == status, err
    assert text in err


def test_signatures_go_along_and_none_is_lost(
    api: Api, call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(api, tmp_path, mixed_bytes(SIZE, seed=5), "latest")
    for name in ("ada", "bob"):
        assert main(["template", "keygen", "--no-password", "--output", str(tmp_path / name)]) == 0
    capsys.readouterr()
    ada, bob = str(tmp_path / "ada.pub"), str(tmp_path / "bob.pub")
    folder = f"{tmp_path}/out:latest"
    assert call("verify", "demo", "--key", ada)[0] == 3
    assert call("sign", "demo", "--key", str(tmp_path / "ada.key"))[0] == 0
    assert call("verify", "demo", "--key", ada)[0] == 0
    assert call("verify", "demo", "--key", bob)[0] == 3
    assert "with its signatures" in call("export", "demo", folder)[1]
    assert call("sign", folder, "--key", str(tmp_path / "bob.key"))[0] == 0
    assert call("export", "demo", folder)[0] == 0  # ada's again; bob's stays
    for key in (ada, bob):
        assert call("verify", folder, "--key", key)[0] == 0
    assert call("rm", "demo")[0] == 0
    assert json.loads(call("import", folder, "--json")[1])["signatures"]
    for key in (ada, bob):
        status, out, _ = call("verify", "demo", "--key", key)
        assert status == 0, out
    shown = call("show", "demo")[1]
    assert shown.count("(not checked; verify --key FILE does)") == 2
    assert len(json.loads(call("show", "demo", "--json")[1])["signatures"]) == 2
    listed = json.loads(call("ls", "--json")[1])
    assert [one["tag"] for one in listed] == ["latest"]
