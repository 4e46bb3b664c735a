"""Fetching, against a server on this machine that cuts connections, lies and goes away."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from eip.cli import app
from eip.data.fetch import DataSet, RemoteFile, catalog, fetch, find_data_set
from eip.data.fetch.download import _PIECE
from eip.data.fetch.files import _check
from eip.errors import InputError
from eip.locks import locked

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves ``files``; what it was asked for is in ``asked`` as (path, Range or None)."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"/a.bin": CONTENT}
        self.asked: list[tuple[str, str | None]] = []
        self.sent = 0
        self.cuts: list[int] = []  # of the coming answers, after how many bytes each is cut
        self.refuse: list[int | None] = []  # status codes of the coming answers; None is no refusal
        self.ranges = True
        self.tag = '"one"'

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is no news."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        if self.server.refuse and (status := self.server.refuse.pop(0)) is not None:
            self.send_error(status)
            return
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        start = 0
        same = self.headers.get("If-Range") in (None, self.server.tag)
        if wanted and self.server.ranges and same:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", self.server.tag)
        self.end_headers()
        body = content[start:]
        if self.server.cuts:
            body = body[: self.server.cuts.pop(0)]
        self.server.sent += len(body)  # before the client can have it, and look here
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Not to the test's output."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def one(server: Server, path: str = "/a.bin", **more: Any) -> DataSet:
    remote = RemoteFile(path.lstrip("/"), server.url(path), **more)
    return DataSet("set", "a title", "a page", "CC0", "a paper", files=(remote,))


def bring(data_set: DataSet, to: Path, **more: Any) -> Path:
    return fetch(data_set, to, retry_wait=0.0, **more)


def left(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_a_file_comes_whole_and_once(server: Server, tmp_path: Path) -> None:
    folder = bring(one(server, checksum=SHA256), tmp_path)
    assert (folder / "a.bin").read_bytes() == CONTENT
    assert left(tmp_path) == ["set/a.bin", "set/fetched.json"]
    record = json.loads((folder / "fetched.json").read_text())["a.bin"]
    assert record["checked against"] == SHA256 and record["size"] == len(CONTENT)
    bring(one(server, checksum=SHA256), tmp_path)
    assert len(server.asked) == 1
    (folder / "a.bin").unlink()
    bring(one(server, checksum=SHA256), tmp_path)
    assert len(server.asked) == 2 and (folder / "a.bin").read_bytes() == CONTENT


def test_a_cut_connection_is_taken_up_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.cuts = [1_000_000, 700_000]
    seen: list[tuple[int, int | None]] = []
    data_set = one(server, checksum=SHA256)
    folder = bring(data_set, tmp_path, reporter=lambda name: lambda *at: seen.append(at))
    assert (folder / "a.bin").read_bytes() == CONTENT
    assert [wanted is None for _, wanted in server.asked] == [True, False, False]
    assert server.sent <= len(CONTENT) + 2 * _PIECE  # no more than a piece comes twice
    there = [at for at, _ in seen]
    assert there == sorted(there) and seen[-1] == (len(CONTENT), len(CONTENT))


def test_the_next_call_goes_on(server: Server, tmp_path: Path) -> None:
    server.cuts, server.refuse = [1_200_000], [None, 403]
    data_set = one(server, checksum=SHA256)
    with pytest.raises(InputError, match=r"answers 403 Forbidden.* MB that arrived are kept"):
        bring(data_set, tmp_path)
    assert left(tmp_path) == ["set/.a.bin.part", "set/.a.bin.part.json"]
    server.asked, server.sent = [], 0
    folder = bring(data_set, tmp_path)
    assert len(server.asked) == 1
    assert len(CONTENT) - 1_200_000 <= server.sent <= len(CONTENT) - 1_200_000 + _PIECE
    assert (folder / "a.bin").read_bytes() == CONTENT
    assert left(tmp_path) == ["set/a.bin", "set/fetched.json"]


def interrupt(server: Server, tmp_path: Path, size: int = 1_200_000) -> None:
    """A first call that brought so many bytes and was killed."""
    server.cuts, server.refuse = [size], []

    def stop(there: int, total: int | None) -> None:
        if there:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bring(one(server, checksum=SHA256), tmp_path, reporter=lambda name: stop)
    server.cuts, server.asked = [], []
    assert 0 < (tmp_path / "set" / ".a.bin.part").stat().st_size <= size


def test_halves_of_two_files_are_never_joined(server: Server, tmp_path: Path) -> None:
    interrupt(server, tmp_path)
    server.files["/a.bin"] = changed = CONTENT[::-1]
    server.tag = '"two"'
    checksum = "md5:" + hashlib.md5(changed).hexdigest()
    folder = bring(one(server, checksum=checksum), tmp_path)
    assert (folder / "a.bin").read_bytes() == changed


def test_a_server_without_ranges_starts_anew(server: Server, tmp_path: Path) -> None:
    interrupt(server, tmp_path)
    server.ranges = False
    folder = bring(one(server, checksum=SHA256), tmp_path)
    assert (folder / "a.bin").read_bytes() == CONTENT


def test_the_part_was_whole_already(server: Server, tmp_path: Path) -> None:
    interrupt(server, tmp_path)
    (tmp_path / "set" / ".a.bin.part").write_bytes(CONTENT)
    folder = bring(one(server, checksum=SHA256), tmp_path)
    assert (folder / "a.bin").read_bytes() == CONTENT
    assert server.asked == [("/a.bin", f"bytes={len(CONTENT)}-")]


@pytest.mark.parametrize("kind", ["sha256", "md5", "git"])
def test_a_wrong_checksum_leaves_nothing(server: Server, tmp_path: Path, kind: str) -> None:
    wrong = f"{kind}:{'0' * {'sha256': 64, 'md5': 32, 'git': 40}[kind]}"
    with pytest.raises(InputError, match=r"a\.bin has a wrong checksum: expected .*thrown away"):
        bring(one(server, checksum=wrong), tmp_path)
    assert left(tmp_path) == [] and not (tmp_path / "set").exists()


def test_the_id_that_git_gives_a_file(server: Server, tmp_path: Path) -> None:
    server.files["/a.bin"] = b"what is up, doc?"  # the example of the book "Pro Git"
    good = "git:bd9dbf5aae1a3862dd1526723246b20206e5fc37"
    folder = bring(one(server, checksum=good), tmp_path)
    assert json.loads((folder / "fetched.json").read_text())["a.bin"]["checked against"] == good


def test_no_checksum_is_said_and_the_one_found_is_kept(server: Server, tmp_path: Path) -> None:
    said: list[str] = []
    folder = bring(one(server), tmp_path, say=said.append)
    assert "no checksum is published" in said[0] and SHA256.removeprefix("sha256:") in said[0]
    record = json.loads((folder / "fetched.json").read_text())["a.bin"]
    assert record["sha256"] == SHA256.removeprefix("sha256:")
    assert record["checked against"] == "nothing: no checksum is published"


def test_the_checksum_that_figshare_publishes(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eip.data.fetch.files.FIGSHARE_API", server.url("/v2/articles/"))

    def publish(md5: str) -> None:
        files = [{"id": 6, "computed_md5": "0" * 32}, {"id": 7, "computed_md5": md5}]
        server.files["/v2/articles/12/versions/3"] = json.dumps({"files": files}).encode()

    data_set = one(server, checksum="figshare:12/3/7")
    publish("0" * 31 + "1")
    with pytest.raises(InputError, match="wrong checksum"):
        bring(data_set, tmp_path)
    publish(hashlib.md5(CONTENT).hexdigest())
    assert (bring(data_set, tmp_path) / "a.bin").read_bytes() == CONTENT
    said: list[str] = []
    del server.files["/v2/articles/12/versions/3"]
    bring(data_set, tmp_path / "other", say=said.append)
    assert "Figshare does not tell the checksum" in said[0] and "404" in said[0]
    assert "no checksum is published" in said[1]


def test_a_file_put_there_by_hand(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.bin").write_bytes(CONTENT)
    bring(one(server, checksum=SHA256), tmp_path)
    assert server.asked == [] and left(tmp_path) == ["set/a.bin", "set/fetched.json"]
    (tmp_path / "set" / "fetched.json").unlink()
    (tmp_path / "set" / "a.bin").write_bytes(b"mine")
    with pytest.raises(InputError, match="is there already; move it away"):
        bring(one(server, checksum=SHA256), tmp_path)
    assert (tmp_path / "set" / "a.bin").read_bytes() == b"mine"


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.refuse = [503, 429]
    assert (bring(one(server, checksum=SHA256), tmp_path) / "a.bin").exists()
    assert len(server.asked) == 3
    server.refuse = [503] * 20
    with pytest.raises(InputError, match="answers 503"):
        bring(one(server), tmp_path / "other")


def test_no_such_file_on_the_server(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"b\.bin: 127\.0\.0\.1:\d+ answers 404 .*By hand"):
        bring(one(server, "/b.bin"), tmp_path)
    assert len(server.asked) == 1 and not (tmp_path / "set").exists()


def test_no_network(server: Server, tmp_path: Path) -> None:
    data_set = one(server)
    server.shutdown()
    server.server_close()
    with pytest.raises(InputError, match="cannot be reached; there is no network here"):
        bring(data_set, tmp_path)
    assert not (tmp_path / "set").exists()


def test_two_processes_at_once(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with locked(tmp_path / "set"), pytest.raises(InputError, match="another process"):
        bring(one(server), tmp_path)
    bring(one(server), tmp_path)


def test_a_disk_that_is_too_small(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "eip.data.fetch.download.shutil.disk_usage", lambda _: type("U", (), {"free": 10})
    )
    with pytest.raises(InputError, match=r"a\.bin needs 3 MB, .* has 10 B free"):
        bring(one(server), tmp_path)


def archive(kind: str, names: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as zipped:
            for name, content in names.items():
                zipped.writestr(name, content)
    else:
        with tarfile.open(fileobj=buffer, mode=f"w:{kind}") as tar:
            for name, content in names.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["zip", "gz", "bz2"])
def test_archives(server: Server, tmp_path: Path, kind: str) -> None:
    path = "/x.zip" if kind == "zip" else f"/x.tar.{kind}"
    names = {"iso17/reference.db": b"one", "iso17/sub/b.db": b"three", "iso17/._reference.db": b""}
    server.files[path] = archive(kind, names)
    folder = bring(one(server, path, unpack=True), tmp_path)
    assert left(folder) == ["fetched.json", "reference.db", "sub/b.db"]
    assert (folder / "sub" / "b.db").read_bytes() == b"three"
    bring(one(server, path, unpack=True), tmp_path)
    assert len(server.asked) == 1
    (folder / "reference.db").unlink()
    bring(one(server, path, unpack=True), tmp_path)
    assert len(server.asked) == 2 and (folder / "reference.db").read_bytes() == b"one"


def test_an_archive_that_points_outside(server: Server, tmp_path: Path) -> None:
    server.files["/x.tar.gz"] = archive("gz", {"good": b"1", "../../evil": b"2"})
    with pytest.raises(InputError, match=r"x\.tar\.gz cannot be unpacked"):
        bring(one(server, "/x.tar.gz", unpack=True), tmp_path)
    assert not list(tmp_path.rglob("evil")) and not list(tmp_path.rglob("good"))


def test_only_some_files(server: Server, tmp_path: Path) -> None:
    names = ("md17_aspirin.npz", "md17_toluene.npz", "b.txt")
    server.files |= {f"/{name}": name.encode() for name in names}
    remote = tuple(RemoteFile(name, server.url(f"/{name}")) for name in names)
    data_set = DataSet("set", "", "", "", "", files=remote)
    assert left(bring(data_set, tmp_path, only="aspirin")) == ["fetched.json", names[0]]
    assert left(bring(data_set, tmp_path, only="*.npz")) == ["fetched.json", *names[:2]]
    with pytest.raises(InputError, match="no file like 'tolune'"):
        bring(data_set, tmp_path, only="tolune")


# --- the catalogue -------------------------------------------------------------------------------


def test_the_catalogue_is_sound() -> None:
    known = catalog()
    assert {"iso17", "md17", "rmd17", "silica", "water", "acac", "3bpa", "mptrj"} <= set(known)
    lengths = {"sha256": 64, "md5": 32, "git": 40}
    for data_set in known.values():
        assert data_set.title and data_set.licence and data_set.cite
        assert data_set.page.startswith("http") and bool(data_set.files) != data_set.by_hand
        for file in data_set.files:
            assert re.match(r"https?://[a-z.-]+/", file.url) and not file.name.startswith("/")
            kind, _, value = (file.checksum or "").partition(":")
            if kind == "figshare":
                assert re.fullmatch(r"\d+/\d+/\d+", value) and file.url.endswith(value[-8:])
            elif kind:
                assert re.fullmatch(rf"[0-9a-f]{{{lengths[kind]}}}", value)
            if "githubusercontent" in file.url:  # a commit, not a branch that moves
                assert re.search(r"/[0-9a-f]{40}/", file.url) and kind
    with pytest.raises(InputError, match="did you mean 'iso17'"):
        find_data_set("isso17")


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("water", "water"),
        ("silica", "silica"),
        ("acac", "acac"),
        ("3bpa", "3bpa"),
        ("rmd17-aspirin", "aspirin"),
        ("mptrj-sample", "mptrj"),
    ],
)
def test_the_checksums_are_those_of_real_files(shared_data: Path, name: str, folder: str) -> None:
    checked = 0
    for file in find_data_set(name).files:
        path = shared_data / folder / file.name
        if path.exists():
            _check(path, file.checksum, "")
            assert file.size in (None, path.stat().st_size)
            checked += 1
    assert checked >= 2


def test_the_command(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = CliRunner().invoke
    listed = run(app, ["fetch", "--list"], env={"COLUMNS": "300"})
    assert listed.exit_code == 0
    for word in ("iso17", "none is published", "CC0", "doi:10.1038/s42256-023-00716-3"):
        assert word in listed.output
    known = {"set": one(server, checksum=SHA256)}
    monkeypatch.setattr("eip.data.fetch.data_sets.catalog", lambda: known)
    done = run(app, ["fetch", "set", "--to", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "set" / "a.bin").read_bytes() == CONTENT
    assert "licence: CC0" in done.output and "to cite: a paper" in done.output
    assert isinstance(run(app, ["fetch", "sett"]).exception, InputError)
    assert isinstance(run(app, ["fetch"]).exception, InputError)
