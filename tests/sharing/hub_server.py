"""A hub on loopback for the tests: the part of Hugging Face's HTTP API that push, pull and streaming use.

Repositories live in memory. Files of some suffixes take the way of large files (LFS), as on the real hub; the
client does all of its own work. Writing needs the token.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hub-of-the-tests"
LARGE = (".parquet", ".safetensors")
_API = re.compile(
    r"/api/(datasets|models)/([^/]+/[^/]+)(?:/(revision|tree|paths-info|preupload|commit)/(.*))?"
)
_BATCH = re.compile(r"/(datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch")
_RESOLVE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Hub:
    """Repositories by (kind, name), each a list of commits: a hash and the files of its tree."""

    url: str = ""
    repos: dict[tuple[str, str], list[tuple[str, dict[str, bytes]]]] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)

    def files(self, kind: str, name: str) -> dict[str, bytes]:
        """Files of the newest commit."""
        return self.repos[f"{kind}s", name][-1][1]

    def create(self, kind: str, name: str) -> None:
        self.repos[f"{kind}s", name] = [("0" * 40, {".gitattributes": b"*.parquet filter=lfs\n"})]

    def commit(self, kind: str, name: str, changes: dict[str, bytes | None]) -> str:
        """Add, replace and (None) delete files."""
        commits = self.repos[kind, name]
        files = {
            path: content for path, content in {**commits[-1][1], **changes}.items() if content is not None
        }
        sha = hashlib.sha1(repr((len(commits), sorted(files.items()))).encode()).hexdigest()
        commits.append((sha, files))
        return sha


@contextmanager
def hub_server() -> Iterator[Hub]:
    """Serves an empty hub until the end of the block."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if found := _RESOLVE.fullmatch(path):
            self._resolve(*found.groups())
        elif found := _API.fullmatch(path):
            self._describe(*found.groups())
        else:
            self._fail(404, "EntryNotFound")

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        self.hub.large[self.path.removeprefix("/lfs/")] = self._body()
        self._send(b"")

    def do_POST(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self._body()
        if path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif found := _API.fullmatch(path):
            kind, name, verb, rest = found.groups()
            if verb == "paths-info":
                self._paths(kind, name, rest.partition("/")[0], json.loads(body))
            elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self._fail(401, "Unauthorized")
            elif verb == "preupload":
                self._answer({"files": [_mode(file["path"]) for file in json.loads(body)["files"]]})
            else:
                self._commit(kind, name, body)
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._fail(401, "Unauthorized")
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif _BATCH.fullmatch(path):
            objects = json.loads(body)["objects"]
            links = [{"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}"}} for one in objects]
            self._answer(
                {"transfer": "basic",
                 "objects": [{**one, "actions": link} for one, link in zip(objects, links, strict=True)]}
            )  # fmt: skip
        else:
            self._fail(404, "EntryNotFound")

    def _create(self, asked: dict[str, Any]) -> None:
        kind, name = asked.get("type", "model"), f"{asked['organization']}/{asked['name']}"
        url = f"{self.hub.url}/{'datasets/' if kind == 'dataset' else ''}{name}"
        if (f"{kind}s", name) in self.hub.repos:
            self._answer({"error": "You already created this repo", "url": url}, 409)
            return
        self.hub.create(kind, name)
        self._answer({"url": url, "name": name})

    def _commit(self, kind: str, name: str, body: bytes) -> None:
        changes: dict[str, bytes | None] = {}
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            match item["key"]:
                case "file":
                    changes[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    changes[value["path"]] = self.hub.large[value["oid"]]
                case "deletedFile":
                    changes[value["path"]] = None
        sha = self.hub.commit(kind, name, changes)
        self._answer({"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{name}/commit/{sha}"})

    def _tree_at(self, kind: str, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        for sha, files in reversed(self.hub.repos.get((kind, name), [])):
            if revision in ("main", sha):
                return sha, files
        self._fail(404, "RevisionNotFound" if (kind, name) in self.hub.repos else "RepoNotFound")
        return None

    def _describe(self, kind: str, name: str, verb: str | None, rest: str | None) -> None:
        found = self._tree_at(kind, name, (rest or "main").partition("/")[0])
        if found is None:
            return
        sha, files = found
        if verb == "tree":
            folder = (rest or "").partition("/")[2]
            below = [path for path in _all_paths(files) if path.startswith(f"{folder}/" if folder else "")]
            if "recursive=true" not in urlsplit(self.path).query.lower():
                below = [path for path in below if PurePosixPath(path).parent == PurePosixPath(folder)]
            self._answer([_entry(path, files.get(path)) for path in below])
            return
        self._answer(
            {"id": name, "sha": sha, "private": False, "disabled": False, "gated": False, "tags": [],
             "downloads": 0, "likes": 0, "siblings": [{"rfilename": path} for path in sorted(files)]}
        )  # fmt: skip

    def _paths(self, kind: str, name: str, revision: str, asked: dict[str, Any]) -> None:
        if (found := self._tree_at(kind, name, revision)) is None:
            return
        known = _all_paths(found[1])
        self._answer([_entry(path, found[1].get(path)) for path in asked["paths"] if path in known])

    def _resolve(self, prefix: str | None, name: str, revision: str, path: str) -> None:
        found = self._tree_at("datasets" if prefix else "models", name, revision)
        if found is None:
            return
        sha, files = found
        if path not in files:
            self._fail(404, "EntryNotFound")
            return
        content, status = files[path], 200
        headers = {"X-Repo-Commit": sha, "ETag": f'"{hashlib.sha256(files[path]).hexdigest()}"'}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(asked[1]), int(asked[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{min(last, len(content) - 1)}/{len(content)}"
            content, status = content[first : last + 1], 206
        self._send(content, status, headers)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _fail(self, status: int, code: str) -> None:
        self._send(
            json.dumps({"error": code}).encode(), status, {"X-Error-Code": code, "X-Error-Message": code}
        )

    def _answer(self, content: object, status: int = 200) -> None:
        self._send(json.dumps(content).encode(), status, {"Content-Type": "application/json"})

    def _send(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _mode(path: str) -> dict[str, object]:
    way = "lfs" if path.endswith(LARGE) else "regular"
    return {"path": path, "uploadMode": way, "shouldIgnore": False, "oid": None}


def _all_paths(files: dict[str, bytes]) -> list[str]:
    """Files and the folders they lie in."""
    folders = {parent.as_posix() for path in files for parent in PurePosixPath(path).parents} - {"."}
    return sorted({*files, *folders})


def _entry(path: str, content: bytes | None) -> dict[str, object]:
    """Row of a tree; a folder has no content."""
    if content is None:
        return {"type": "directory", "path": path, "oid": "0", "size": 0}
    oid = hashlib.sha1(content).hexdigest()
    row: dict[str, object] = {"type": "file", "path": path, "oid": oid, "size": len(content)}
    if path.endswith(LARGE):
        row["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return row
