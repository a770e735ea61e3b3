"""A stand-in for the hub: the calls that huggingface_hub makes, over plain HTTP, and its faults.

    hub.py DIRECTORY [--port N] [--host ADDRESS]

Serves DIRECTORY/ORG/NAME/… as repositories of one commit each; by `Hub` a test makes repositories
of several revisions and tells it what to do wrong. What it says, as the hub does:

* ``GET /api/models/REPO/revision/REV`` the commit, ``GET /api/models/REPO/tree/REV`` the files in
  pages of two (``Link: …; rel="next"``), LFS for those of more than ``LFS_FROM`` bytes;
* ``GET /REPO/resolve/COMMIT/FILE`` a redirect to another host name for LFS files, as to the hub's
  CDN, where no token may arrive; bytes, and ranges of them;
* errors by ``X-Error-Code``: GatedRepo 403 (or 401 without a token), RepoNotFound 401 and 404,
  RevisionNotFound 404, EntryNotFound 404.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LFS_FROM = 1024
PAGE = 2
PIECE = 64 * 1024


@dataclass
class Faults:
    """What it does wrong, until it is told otherwise."""

    cut_after: int | None = None
    """Bytes of an answer after which the connection is broken."""
    cuts: int = 0
    """How many answers are still to be cut."""
    slow: float = 0.0
    """Seconds before each piece of 64 KiB."""
    status: int | None = None
    """What every request is answered with."""
    no_ranges: bool = False
    corrupt: bool = False
    """The first byte of each LFS file is another."""


@dataclass
class Repository:
    """Revisions by commit, and the names that point to them."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    """Who wants to read needs it."""
    gated: bool = False

    def commit(self, files: dict[str, bytes], *names: str) -> str:
        """Add a revision under the names; its commit."""
        digest = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[digest] = files
        for name in names or ("main",):
            self.names[name] = digest
        return digest


class Hub:
    """The server, on a port of its own."""

    def __init__(self, port: int = 0, host: str = "127.0.0.1") -> None:
        self.repositories: dict[str, Repository] = {}
        self.faults = Faults()
        self.asked: list[str] = []
        """``METHOD PATH [RANGE]`` of each request."""
        self.cdn_tokens: list[str] = []
        """Tokens that came to where files are and should not have."""
        self.sent = 0
        """Bytes of files that were sent."""
        self.server = _Server((host, port), _Handler)
        self.server.hub = self
        self.port = int(self.server.server_address[1])
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Hub:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: Hub

    def handle_error(self, *_: object) -> None:
        """A client that hung up is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: object) -> None:
        """The test asks for what it wants to know."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub = self.server.hub
        url = urlsplit(self.path)
        wanted = self.headers.get("Range")
        hub.asked.append(f"{self.command} {self.path}{' ' + wanted if wanted else ''}")
        if hub.faults.status:
            self._error(hub.faults.status, "", "as the test wants it")
            return
        path = unquote(url.path)
        if cdn := re.fullmatch(r"/cdn/([0-9a-f]{64})", path):
            if "Authorization" in self.headers:
                hub.cdn_tokens.append(self.headers["Authorization"])
            self._bytes(self._by_digest(cdn[1]), corrupt=hub.faults.corrupt)
        elif api := re.fullmatch(r"/api/models/(.+?)/(revision|tree)/([^/]+)", path):
            self._api(api[1], api[2], api[3], parse_qs(url.query))
        elif resolve := re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path):
            self._resolve(resolve[1], resolve[2], resolve[3])
        else:
            self._error(404, "RepoNotFound", "no such path")

    def _found(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit and its files; None when the request has been answered."""
        repository = self.server.hub.repositories.get(name)
        given = self.headers.get("Authorization")
        if repository is None:
            self._error(404 if given else 401, "RepoNotFound", "Repository not found")
            return None
        if repository.token and given != f"Bearer {repository.token}":
            status = 403 if given else 401
            code = "GatedRepo" if repository.gated else "RepoNotFound"
            self._error(status, code, "Access is restricted")
            return None
        commit = repository.names.get(revision, revision)
        if commit not in repository.commits:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return commit, repository.commits[commit]

    def _api(self, name: str, what: str, revision: str, query: dict[str, list[str]]) -> None:
        found = self._found(name, revision)
        if found is None:
            return
        commit, files = found
        if what == "revision":
            siblings = [{"rfilename": path} for path in sorted(files)]
            self._json({"id": name, "modelId": name, "sha": commit, "siblings": siblings})
            return
        start = int(query.get("cursor", ["0"])[0])
        entries = [_entry(path, files[path]) for path in sorted(files)]
        entries[:0] = [
            {"type": "directory", "path": folder, "oid": "0" * 40, "size": 0}
            for folder in sorted({path.rpartition("/")[0] for path in files} - {""})
        ]
        more = {}
        if start + PAGE < len(entries):
            here = f"http://{self.headers['Host']}{urlsplit(self.path).path}"
            more["Link"] = f'<{here}?recursive=True&cursor={start + PAGE}>; rel="next"'
        self._json(entries[start : start + PAGE], more)

    def _resolve(self, name: str, revision: str, path: str) -> None:
        found = self._found(name, revision)
        if found is None:
            return
        commit, files = found
        if path not in files:
            self._error(404, "EntryNotFound", "Entry not found")
            return
        data = files[path]
        head = {"X-Repo-Commit": commit, "ETag": f'"{_git(data)}"'}
        if len(data) < LFS_FROM:
            self._bytes(data, head)
            return
        digest = hashlib.sha256(data).hexdigest()
        # another origin, as the CDN is: the client has to keep the token to itself
        host = (self.headers["Host"] or "").partition(":")[0]
        other = {"127.0.0.1": "localhost"}.get(host, host)
        head |= {"X-Linked-ETag": f'"{digest}"', "X-Linked-Size": str(len(data))}
        head["Location"] = f"http://{other}:{self.server.hub.port}/cdn/{digest}"
        self._answer(302, b"", head)

    def _by_digest(self, digest: str) -> bytes:
        for repository in self.server.hub.repositories.values():
            for files in repository.commits.values():
                for data in files.values():
                    if hashlib.sha256(data).hexdigest() == digest:
                        return data
        raise LookupError(digest)

    def _bytes(
        self, data: bytes, head: dict[str, str] | None = None, corrupt: bool = False
    ) -> None:
        if corrupt:
            data = bytes([data[0] ^ 0xFF]) + data[1:]
        head = {"Accept-Ranges": "bytes", **(head or {})}
        status, whole = 200, len(data)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted and not self.server.hub.faults.no_ranges:
            first, last = int(wanted[1]), int(wanted[2] or whole - 1)
            if first >= whole:
                self._answer(416, b"", {"Content-Range": f"bytes */{whole}"})
                return
            status, data = 206, data[first : last + 1]
            head["Content-Range"] = f"bytes {first}-{last}/{whole}"
        self._answer(status, data, head)

    def _json(self, value: Any, head: dict[str, str] | None = None) -> None:
        head = {"Content-Type": "application/json", **(head or {})}
        self._answer(200, json.dumps(value).encode(), head)

    def _error(self, status: int, code: str, message: str) -> None:
        head = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        self._answer(status, json.dumps({"error": message}).encode(), head)

    def _answer(self, status: int, data: bytes, head: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in head.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        hub = self.server.hub
        files = status in (200, 206) and "/api/" not in self.path
        cut = hub.faults.cut_after if files and hub.faults.cuts > 0 else None
        if cut is not None and cut < len(data):
            hub.faults.cuts -= 1
            data = data[:cut]
            self.close_connection = True
        for start in range(0, len(data), PIECE):
            if files and hub.faults.slow:
                time.sleep(hub.faults.slow)
            piece = data[start : start + PIECE]
            self.wfile.write(piece)
            hub.sent += len(piece) if files else 0


def _git(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _entry(path: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": _git(data)}
    if len(data) >= LFS_FROM:
        digest = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"oid": digest, "size": len(data), "pointerSize": 134}
    return entry


def repositories_of(directory: Path) -> dict[str, Repository]:
    """DIRECTORY/ORG/NAME/… as repositories."""
    found = {}
    for folder in sorted(path for path in directory.glob("*/*") if path.is_dir()):
        files = {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        repository = Repository()
        repository.commit(files)
        found[str(folder.relative_to(directory))] = repository
    return found


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--slow", type=float, default=0.0, help="seconds before each 64 KiB")
    options = parser.parse_args()
    hub = Hub(options.port, options.host)
    hub.repositories = repositories_of(options.directory)
    hub.faults.slow = options.slow
    print(f"{', '.join(hub.repositories)} on port {hub.port}", flush=True)
    hub.server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
