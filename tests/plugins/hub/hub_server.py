"""A server on the loopback interface that speaks the part of the hub's HTTP API by which models are shared."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

TOKEN = "hf_of_a_test"


@dataclass
class Repository:
    """Commits of a repository, oldest first, each with its files; `stated` replaces the hash that it states of a file.

    Large files, by name, have a SHA-256 like those of LFS; others have the hash of git.
    """

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    stated: dict[str, str] = field(default_factory=dict)

    def commit(self, files):
        digest = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[digest] = files
        return digest

    def find(self, revision):
        return next(reversed(self.commits)) if revision == "main" else revision if revision in self.commits else None

    def describe(self, name, data):
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        if not name.endswith(".safetensors"):
            return {"size": len(data), "oid": self.stated.get(name, blob)}
        sha256 = self.stated.get(name, hashlib.sha256(data).hexdigest())
        return {"size": len(data), "oid": blob, "lfs": {"oid": sha256, "size": len(data), "pointerSize": 130}}


class Hub:
    """Repositories by name, everything that was uploaded, and every path with the program that asked for it."""

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.received: list[bytes] = []
        self.requests: list[str] = []
        self.large: dict[str, bytes] = {}
        self.address = ""


@contextmanager
def serve_hub():
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)  # so soon it ends
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

    def log_message(self, *args):
        """Print nothing."""

    def do_GET(self):
        path, _, _ = self.path.partition("?")
        self.hub.requests.append(f"{path} {self.headers['User-Agent']}")
        if match := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([\w.-]+)/(.+)", path):
            return self._send_file(*match.groups())
        match = re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+?)(?:/(revision|tree)/([\w.%-]+))?", path)
        if match is None:
            return self._refuse(404, "")
        name, what, revision = match.groups()
        known = self._find(name, revision or "main")
        if known is None:
            return None
        repository, commit = known
        files = {file: repository.describe(file, data) for file, data in repository.commits.get(commit, {}).items()}
        if what == "tree":
            return self._answer([{"type": "file", "path": file, **stated} for file, stated in files.items()])
        siblings = []
        for file, stated in files.items():
            sibling = {"rfilename": file, "size": stated["size"], "blobId": stated["oid"]}
            lfs = {"lfs": {**stated["lfs"], "sha256": stated["lfs"]["oid"]}} if "lfs" in stated else {}
            siblings.append(sibling | lfs)
        return self._answer({"id": name, "sha": commit, "private": repository.private, "siblings": siblings})

    do_HEAD = do_GET  # noqa: N815  # as http.server names it

    def do_POST(self):
        body = self._read()
        if self.path == "/api/validate-yaml":
            return self._answer({})
        if not self._is_known():
            return self._refuse(401, "")
        if self.path == "/api/repos/create":
            values = json.loads(body)
            name = f"{values['organization']}/{values['name']}"
            code = 409 if name in self.hub.repositories else 200
            self.hub.repositories.setdefault(name, Repository(values["visibility"] == "private"))
            return self._answer({"url": f"{self.hub.address}/{name}"}, code)
        if self.path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            for large in objects:
                large["actions"] = {"upload": {"href": f"{self.hub.address}/large/{large['oid']}"}}
            return self._answer({"transfer": "basic", "objects": objects})
        match = re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/(preupload|commit)/main", self.path.partition("?")[0])
        assert match is not None, self.path
        name, what = match.groups()
        if what == "preupload":
            files = json.loads(body)["files"]
            for file in files:
                file["uploadMode"] = "lfs" if file["path"].endswith(".safetensors") else "regular"
                file["shouldIgnore"] = False
            return self._answer({"files": files})
        self.hub.received.append(body)
        repository = self.hub.repositories[name]
        files = dict(next(reversed(repository.commits.values()), {}))
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
                self.hub.received.append(files[value["path"]])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        commit = repository.commit(files)
        return self._answer(
            {"success": True, "commitOid": commit, "commitUrl": f"{self.hub.address}/{name}/commit/{commit}"}
        )

    def do_PUT(self):
        body = self._read()
        if match := re.fullmatch(r"/large/(\w+)", self.path):
            self.hub.large[match[1]] = body
            self.hub.received.append(body)
            return self._answer({})
        match = re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/settings", self.path)
        assert match is not None, self.path
        self.hub.repositories[match[1]].private = json.loads(body)["visibility"] == "private"
        return self._answer({})

    def _send_file(self, name, revision, file):
        known = self._find(name, revision)
        if known is None:
            return None
        repository, commit = known
        data = repository.commits[commit][file]
        stated = repository.describe(file, data)
        etag = stated["lfs"]["oid"] if "lfs" in stated else stated["oid"]
        return self._send(200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": commit})

    def _find(self, name, revision):
        """Return a repository and a commit, or answer that there is none."""
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and not self._is_known()):
            self._refuse(401, "RepoNotFound")
            return None
        commit = repository.find(revision) if repository.commits or revision != "main" else ""
        if commit is None:
            self._refuse(404, "RevisionNotFound")
            return None
        return repository, commit

    def _is_known(self):
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _read(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, content, code=200):
        self._send(code, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _refuse(self, code, reason):
        self._send(code, b"{}", {"X-Error-Code": reason} if reason else {})

    def _send(self, code, data, headers):
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
