# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""A Hub on the loopback interface, for the real `huggingface_hub` client. Large files go over LFS, not over xet."""

import base64
import contextlib
import hashlib
import json
import re
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml


DATE = "2026-01-02T03:04:05.000Z"
# Spaces are kept beside models, under `spaces/<id>`.
REPO = r"(?P<repo>(spaces/)?[\w.-]+/[\w.-]+)"
API = r"/api/(models/|(?=spaces/))"
REVISION = r"(?P<revision>[^/]+)"


@dataclass
class Repo:
    """A model repository: branches point to commits, a commit is path -> (content, whether it is an LFS file)."""

    private: bool
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, tuple[bytes, bool]]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, tuple[bytes, bool]], message: str) -> str:
        oid = hashlib.sha1(f"{len(self.commits)} {branch} {message}".encode()).hexdigest()
        self.commits[oid], self.branches[branch] = files, oid
        self.messages.append(message)
        return oid

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return {path: content for path, (content, _) in self.commits[self.branches[revision]].items()}


class HubError(Exception):
    """An answer that is an error: status, code (`X-Error-Code`) and message (`X-Error-Message`)."""

    def __init__(self, status: int, message: str, code: str | None = None, **body):
        super().__init__(message)
        self.status, self.message, self.code, self.body = status, message, code, body


class LoopbackHub:
    """
    The state of the server, and faults to be met.

    Attributes:
        repos (`dict[str, Repo]`): Repositories by id.
        tokens (`dict[str, tuple[str, str]]`): Token -> user and role (`"read"` or `"write"`).
        orgs (`list[str]`): Organisations that every user is in, without the right to write.
        requests (`list[str]`): `"METHOD /path"` of every request, in order.
    """

    def __init__(self):
        self.repos: dict[str, Repo] = {}
        self.tokens = {"hf_me": ("me", "write"), "hf_me_read": ("me", "read"), "hf_other": ("other", "write")}
        self.orgs = ["lab"]
        self.lfs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.lock = threading.Lock()
        self._faults: list[list] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        # Another origin than `url`, as a CDN is: the client must not send it the token.
        self.cdn = f"http://localhost:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def fail(self, request: str, times: int, kind: int | str = 500) -> None:
        """Meet the next requests that match: a status, `"cut"` (in the middle of the body) or `"no answer"`."""
        self._faults.append([re.compile(request), times, kind])

    def fault(self, request: str) -> int | str | None:
        with self.lock:
            for fault in self._faults:
                if fault[1] and fault[0].search(request):
                    fault[1] -= 1
                    return fault[2]
        return None

    def uploads(self) -> list[str]:
        """The requests that bring content."""
        return [request for request in self.requests if request.startswith("PUT") or "/commit/" in request]

    # What may be read and written

    def readable(self, repo_id: str, user: str | None) -> Repo:
        repo = self.repos.get(repo_id)
        if repo is None or (repo.private and user != owner(repo_id)):
            raise HubError(404 if user else 401, "Repository not found", "RepoNotFound")
        return repo

    def writable(self, repo_id: str, user: str | None, role: str | None) -> Repo:
        repo = self.readable(repo_id, user)
        if user != owner(repo_id) or role != "write":
            raise HubError(403, "Forbidden: you don't have the rights to write to this repository")
        return repo

    @staticmethod
    def oid(repo: Repo, revision: str) -> str:
        revision = unquote(revision)
        oid = repo.branches.get(revision, revision)
        if oid not in repo.commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return oid


def owner(repo_id: str) -> str:
    return repo_id.removeprefix("spaces/").split("/")[0]


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _lfs_pointer(content: bytes) -> bytes:
    digest = hashlib.sha256(content).hexdigest()
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(content)}\n".encode()


def _blob(content: bytes, lfs: bool) -> tuple[str, dict]:
    """Blob id, and what is said of an LFS file."""
    if not lfs:
        return _git_hash(content), {}
    pointer = _lfs_pointer(content)
    digest = hashlib.sha256(content).hexdigest()
    return _git_hash(pointer), {"oid": digest, "size": len(content), "pointerSize": len(pointer)}


def published(hub: LoopbackHub, repo_id: str = "me/unlearned", revision: str = "main") -> set[str]:
    """The files of a revision that a push sent."""
    return set(hub.repos[repo_id].files(revision)) - {".gitattributes"}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LoopbackHub

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def _serve(self):
        url = urlsplit(self.path)
        self.query = {key: values[0] for key, values in parse_qs(url.query).items()}
        request = f"{self.command} {url.path}"
        self.hub.requests.append(request)
        fault = self.hub.fault(request)
        if fault == "cut":
            self.rfile.read(int(self.headers.get("Content-Length", 2)) // 2)
            return self._hang_up()
        self.body = self._read_body()
        try:
            if isinstance(fault, int):
                raise HubError(fault, "Internal Error - We're working hard to fix this as soon as possible!")
            self.user, self.role = self._who()
            status, content, headers = self._answer(request)
        except HubError as error:
            status, content = error.status, json.dumps({"error": error.message, **error.body}).encode()
            headers = {"X-Error-Message": error.message, "Content-Type": "application/json"}
            headers |= {"X-Error-Code": error.code} if error.code else {}
        if fault == "no answer":
            return self._hang_up()
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _hang_up(self):
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _who(self) -> tuple[str | None, str | None]:
        given = self.headers.get("Authorization")
        if given is None:
            return None, None
        if given.removeprefix("Bearer ") not in self.hub.tokens:
            raise HubError(401, "Invalid credentials in Authorization header")
        return self.hub.tokens[given.removeprefix("Bearer ")]

    def _answer(self, request: str):
        for pattern, method in _ROUTES:
            if match := re.fullmatch(pattern, request):
                with self.hub.lock:
                    answer = method(self, **match.groupdict())
                if isinstance(answer, tuple):
                    return answer
                return 200, json.dumps(answer).encode(), {"Content-Type": "application/json"}
        raise HubError(404, f"Sorry, we can't find the page you are looking for: {request}")

    # Routes: a method for each, with the named groups of its pattern

    def whoami(self):
        if self.user is None:
            raise HubError(401, "Invalid username or password.")
        token = {"displayName": "test", "role": self.role}
        return {
            "type": "user",
            "name": self.user,
            "orgs": [{"name": name} for name in self.hub.orgs],
            "auth": {"type": "access_token", "accessToken": token},
        }

    def create(self):
        asked = json.loads(self.body)
        name = asked.get("organization") or self.user
        is_space = asked.get("type") == "space"
        if is_space and asked.get("sdk") != "gradio":
            raise HubError(400, "A Space needs an SDK")
        repo_id = f"{'spaces/' if is_space else ''}{name}/{asked['name']}"
        if self.user is None:
            raise HubError(401, "Invalid username or password.")
        if self.user != name or self.role != "write":
            raise HubError(403, f'You don\'t have the rights to create a model under the namespace "{name}"')
        url = f"{self.hub.url}/{repo_id}"
        if repo_id in self.hub.repos:
            raise HubError(409, "You already created this model repo", url=url)
        repo = self.hub.repos[repo_id] = Repo(private=asked.get("visibility", "public") == "private")
        attributes = (b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n", False)
        repo.commit("main", {".gitattributes": attributes}, "initial commit")
        return {"url": url, "name": repo_id}

    def validate_yaml(self):
        content = json.loads(self.body)["content"]
        head = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        try:
            data = yaml.safe_load(head.group(1)) if head else {}
            for entry in data.get("model-index", []):
                for result in entry["results"]:
                    _ = (entry["name"], result["task"]["type"], result["dataset"]["type"], result["dataset"]["name"])
                    _ = [(metric["type"], metric["value"]) for metric in result["metrics"]]
        except (yaml.YAMLError, KeyError, TypeError) as error:
            message = f"metadata: {type(error).__name__} {error}"
            raise HubError(400, message, errors=[{"message": message}], warnings=[]) from error
        return {"errors": [], "warnings": []}

    def preupload(self, repo, revision):
        found = self.hub.writable(repo, self.user, self.role)
        held = found.commits[self.hub.oid(found, revision)]
        answer = []
        for file in json.loads(self.body)["files"]:
            lfs = file["path"].endswith((".safetensors", ".png")) or file["size"] > 10_000_000
            content = held.get(file["path"], (None,))[0]
            oid = None
            if content is not None:
                oid = hashlib.sha256(content).hexdigest() if lfs else _git_hash(content)
            mode = "lfs" if lfs else "regular"
            answer.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return {"files": answer}

    def lfs_batch(self, repo):
        self.hub.writable(repo, self.user, self.role)
        answer = []
        for item in json.loads(self.body)["objects"]:
            actions = {
                "upload": {"href": f"{self.hub.cdn}/upload/{item['oid']}"},
                "verify": {"href": f"{self.hub.url}/api/verify/{repo}"},
            }
            answer.append(item if item["oid"] in self.hub.lfs else {**item, "actions": actions})
        return {"transfer": "basic", "objects": answer}

    def lfs_upload(self, sha256):
        if self.user is not None:
            raise HubError(400, "The token was sent to the storage")
        if hashlib.sha256(self.body).hexdigest() != sha256:
            raise HubError(400, "The content does not match its hash")
        self.hub.lfs[sha256] = self.body
        return 200, b"", {}

    def lfs_verify(self, repo):
        self.hub.writable(repo, self.user, self.role)
        asked = json.loads(self.body)
        if len(self.hub.lfs.get(asked["oid"], b"")) != asked["size"]:
            raise HubError(404, "The object was not uploaded")
        return {}

    def commit(self, repo, revision):
        found = self.hub.writable(repo, self.user, self.role)
        parent, branch = self.hub.oid(found, revision), unquote(revision)
        files, header = dict(found.commits[parent]), {}
        for line in map(json.loads, self.body.splitlines()):
            kind, value = line["key"], line["value"]
            if kind == "header":
                header = value
            elif kind == "file":
                files[value["path"]] = (base64.b64decode(value["content"]), False)
            elif kind == "lfsFile":
                if value["oid"] not in self.hub.lfs:
                    raise HubError(400, f"The LFS object {value['oid']} was not uploaded")
                files[value["path"]] = (self.hub.lfs[value["oid"]], True)
            elif kind == "deletedFile":
                if files.pop(value["path"], None) is None:
                    raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
            else:
                raise HubError(400, f"Unknown operation: {kind}")
        if header.get("parentCommit", parent) != parent:
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        oid = found.commit(branch, files, header["summary"])
        return {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{repo}/commit/{oid}"}

    def info(self, repo, revision="main"):
        found = self.hub.readable(repo, self.user)
        oid = self.hub.oid(found, revision)
        siblings = []
        for path, (content, lfs) in sorted(found.commits[oid].items()):
            sibling = {"rfilename": path}
            if self.query.get("blobs"):
                blob, about = _blob(content, lfs)
                sibling |= {"blobId": blob, "size": len(content)}
                if lfs:
                    sibling["lfs"] = {
                        "sha256": about["oid"],
                        "size": len(content),
                        "pointerSize": about["pointerSize"],
                    }
            siblings.append(sibling)
        about = {"id": repo, "modelId": repo, "author": owner(repo), "sha": oid, "private": found.private}
        if repo.startswith("spaces/"):
            about["id"] = repo.removeprefix("spaces/")
        about |= {"gated": False, "siblings": siblings, "tags": [], "downloads": 0}
        return about | {"createdAt": DATE, "lastModified": DATE}

    def tree(self, repo, revision, path=None):
        found = self.hub.readable(repo, self.user)
        files = found.commits[self.hub.oid(found, revision)]
        start = f"{unquote(path)}/" if path else ""
        inside = {name: file for name, file in sorted(files.items()) if name.startswith(start)}
        if start and not inside:
            raise HubError(404, f"{path} does not exist", "EntryNotFound")
        answer, folders = [], set()
        for name, (content, lfs) in inside.items():
            parts = name[len(start) :].split("/")
            folders |= {start + "/".join(parts[:depth]) for depth in range(1, len(parts))}
            if len(parts) == 1 or self.query.get("recursive") == "true":
                blob, about = _blob(content, lfs)
                entry = {"type": "file", "path": name, "size": len(content), "oid": blob}
                answer.append(entry | ({"lfs": about} if lfs else {}))
        deep = self.query.get("recursive") == "true"
        folders = {folder for folder in folders if deep or "/" not in folder[len(start) :]}
        return [{"type": "directory", "path": name, "size": 0, "oid": "0" * 40} for name in sorted(folders)] + answer

    def refs(self, repo):
        found = self.hub.readable(repo, self.user)
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid} for name, oid in found.branches.items()
        ]
        return {"branches": branches, "converts": [], "tags": []}

    def branch(self, repo, revision):
        found, name = self.hub.writable(repo, self.user, self.role), unquote(revision)
        if name in found.branches:
            raise HubError(409, f"Reference {name} already exists")
        start = json.loads(self.body or b"{}").get("startingPoint", "main")
        found.branches[name] = self.hub.oid(found, start)
        return {}

    def resolve(self, repo, revision, path):
        found = self.hub.readable(repo, self.user)
        oid = self.hub.oid(found, revision)
        file = found.commits[oid].get(unquote(path))
        if file is None:
            # The client remembers for this commit that there is no such file.
            headers = {"X-Repo-Commit": oid, "X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            return 404, b"Entry not found", headers
        content, lfs = file
        if not lfs:
            return 200, content, {"ETag": f'"{_git_hash(content)}"', "X-Repo-Commit": oid}
        digest = hashlib.sha256(content).hexdigest()
        headers = {"X-Linked-Size": len(content), "X-Linked-ETag": f'"{digest}"', "X-Repo-Commit": oid}
        return 302, b"", headers | {"Location": f"{self.hub.cdn}/storage/{digest}"}

    def storage(self, sha256):
        if self.user is not None:
            raise HubError(400, "The token was sent to the storage")
        return 200, self.hub.lfs[sha256], {"ETag": f'"{sha256}"'}


_ROUTES = (
    ("GET /api/whoami-v2", _Handler.whoami),
    ("POST /api/repos/create", _Handler.create),
    ("POST /api/validate-yaml", _Handler.validate_yaml),
    (rf"POST {API}{REPO}/preupload/{REVISION}", _Handler.preupload),
    (rf"POST /{REPO}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    (r"PUT /upload/(?P<sha256>[0-9a-f]{64})", _Handler.lfs_upload),
    (rf"POST /api/verify/{REPO}", _Handler.lfs_verify),
    (rf"POST {API}{REPO}/commit/{REVISION}", _Handler.commit),
    (rf"GET {API}{REPO}", _Handler.info),
    (rf"GET {API}{REPO}/revision/{REVISION}", _Handler.info),
    (rf"GET {API}{REPO}/tree/{REVISION}(/(?P<path>.+))?", _Handler.tree),
    (rf"GET {API}{REPO}/refs", _Handler.refs),
    (rf"POST {API}{REPO}/branch/{REVISION}", _Handler.branch),
    (rf"(GET|HEAD) /{REPO}/resolve/{REVISION}/(?P<path>.+)", _Handler.resolve),
    (r"(GET|HEAD) /storage/(?P<sha256>[0-9a-f]{64})", _Handler.storage),
)
