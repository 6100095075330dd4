# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""A Hub for tests: model repositories in memory, served over HTTP on this machine.

    with FakeHub() as hub:
        subprocess.run([...], env={**os.environ, **hub.environment(tmp_path)})
    hub.files("org/name")     # {path: bytes} of the newest commit
    hub.commits               # what was sent, in order

It speaks as much of the Hub's protocol as creating a repository (of a model or a Space), branches, pull requests,
`upload_folder` (regular and LFS files), a Space's variables and every kind of download need. A request that it does
not know is answered by 404 and kept in `hub.unknown`.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class Commit:
    """One commit as it was sent."""

    repo_id: str
    summary: str
    branch: str = "main"
    added: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)


@dataclass
class Repository:
    private: bool
    sdk: str | None = None
    branches: dict[str, str] = field(default_factory=lambda: {"main": "0" * 40})
    trees: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"0" * 40: {}})
    variables: dict[str, str] = field(default_factory=dict)

    def tree(self, revision: str) -> tuple[str, dict[str, bytes]]:
        sha = self.branches.get(revision, revision)
        return sha, self.trees[sha]


class FakeHub:
    """The server; a context manager. `user` owns the token, whose role is "read" or "write", and every bare name."""

    def __init__(self, user: str = "tester", token_role: str = "write"):
        self.user = user
        self.token_role = token_role
        self.repositories: dict[str, Repository] = {}
        self.spaces: dict[str, Repository] = {}
        self.commits: list[Commit] = []
        self.unknown: list[str] = []
        self.refuses_commits = False
        self.refuses_uploads = False
        self.blobs: dict[str, bytes] = {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.server.shutdown()
        self.server.server_close()

    def environment(self, home: Path) -> dict[str, str]:
        """Variables that point a process's huggingface_hub here; they are read when it is imported."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": "hf_test",
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        return self.repositories[repo_id].tree(revision)[1]

    def all_of(self, kind: str | None) -> dict[str, Repository]:
        """The repositories of a kind, as requests spell it: "space" or "spaces", else models."""
        return self.spaces if kind in ("space", "spaces") else self.repositories

    def create(self, request: dict) -> dict:
        repo_id = f"{request.get('organization') or self.user}/{request['name']}"
        is_private = request.get("visibility") == "private"
        self.all_of(request.get("type"))[repo_id] = Repository(is_private, request.get("sdk"))
        prefix = "spaces/" if request.get("type") == "space" else ""
        return {"url": f"{self.url}/{prefix}{repo_id}", "id": repo_id}

    def commit(self, repo_id: str, lines: list[dict], kind: str = "models", branch: str = "main", pr=False) -> dict:
        repository = self.all_of(kind)[repo_id]
        parent, tree = repository.tree(branch)
        tree = dict(tree)
        if pr:
            branch = f"refs/pr/{1 + sum(name.startswith('refs/pr/') for name in repository.branches)}"
        commit = Commit(repo_id, summary="", branch=branch)
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                commit.summary = value["summary"]
                continue
            path = value["path"]
            if line["key"] == "deletedFile":
                del tree[path]
                commit.deleted.append(path)
                continue
            is_lfs = line["key"] == "lfsFile"
            tree[path] = self.blobs[value["oid"]] if is_lfs else base64.b64decode(value["content"])
            commit.added.append(path)
        digest = hashlib.sha1(parent.encode())
        for path, content in sorted(tree.items()):
            digest.update(path.encode() + hashlib.sha1(content).digest())
        sha = repository.branches[branch] = digest.hexdigest()
        repository.trees[sha] = tree
        self.commits.append(commit)
        answer = {"success": True, "commitOid": sha, "commitUrl": f"{self.url}/{repo_id}/commit/{sha}"}
        number = branch.removeprefix("refs/pr/")
        return {**answer, "pullRequestUrl": f"{self.url}/{repo_id}/discussions/{number}"} if pr else answer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, *arguments):
        pass

    def do_any(self):
        parts = urlsplit(self.path)
        path, self.query = unquote(parts.path), parts.query
        # Of a branch's name the slash comes as %2F, which is what tells it from what follows.
        encoded = parts.path.replace("%2F", "\0").replace("%2f", "\0")
        body = self.read_body()
        for pattern, answer in self.ROUTES:
            match = re.fullmatch(pattern, unquote(encoded))
            if match:
                found = {name: value and value.replace("\0", "/") for name, value in match.groupdict().items()}
                return answer(self, body, **found)
        self.hub.unknown.append(f"{self.command} {path}")
        return self.refuse("Unknown")

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = do_any  # noqa: N815

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def answer(self, content, status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, code, status=404, **headers):
        self.answer({"error": code}, status, X_Error_Code=code, **headers)

    # What follows answers one kind of request each.

    def whoami(self, body):
        token = {"displayName": "test", "role": self.hub.token_role}
        auth = {"type": "access_token", "accessToken": token}
        self.answer({"name": self.hub.user, "type": "user", "orgs": [{"name": "org"}], "auth": auth})

    def validate_yaml(self, body):
        self.answer({"errors": [], "warnings": []})

    def create(self, body):
        request = json.loads(body)
        name = f"{request.get('organization') or self.hub.user}/{request['name']}"
        if name in self.hub.all_of(request.get("type")):
            return self.answer({"error": "exists", "url": f"{self.hub.url}/{name}", "id": name}, status=409)
        return self.answer(self.hub.create(request))

    def delete(self, body):
        request = json.loads(body)
        repositories = self.hub.all_of(request.get("type"))
        del repositories[f"{request.get('organization') or self.hub.user}/{request['name']}"]
        self.answer({})

    def branch(self, body, kind, repo_id, revision):
        branches = self.hub.all_of(kind)[repo_id].branches
        if self.command == "DELETE":
            del branches[revision]
        else:
            branches[revision] = branches["main"]
        self.answer({})

    def refs(self, body, kind, repo_id):
        found = self.hub.all_of(kind)[repo_id].branches.items()
        branches = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha} for name, sha in found]
        self.answer({"branches": branches, "converts": [], "tags": []})

    def variables(self, body, repo_id):
        found = self.hub.spaces[repo_id].variables
        if self.command == "POST":
            request = json.loads(body)
            found[request["key"]] = request["value"]
        elif self.command == "DELETE":
            del found[json.loads(body)["key"]]
        self.answer({key: {"key": key, "value": value} for key, value in found.items()})

    def preupload(self, body, kind, repo_id, revision):
        def described(file):
            mode = "lfs" if file["path"].endswith((".safetensors", ".png")) else "regular"
            return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None}

        if self.find(kind, repo_id, revision):
            self.answer({"files": [described(file) for file in json.loads(body)["files"]]})

    def lfs_batch(self, body, kind, repo_id):
        objects = [
            {"oid": o["oid"], "size": o["size"], "actions": {"upload": {"href": f"{self.hub.url}/lfs/{o['oid']}"}}}
            for o in json.loads(body)["objects"]
        ]
        self.answer({"transfer": "basic", "objects": objects}, Content_Type="application/vnd.git-lfs+json")

    def lfs_put(self, body, oid):
        if self.hub.refuses_uploads:
            return self.refuse("Refused", status=403)
        if hashlib.sha256(body).hexdigest() != oid:
            return self.refuse("BadDigest", status=400)
        self.hub.blobs[oid] = body
        return self.answer(b"")

    def commit(self, body, kind, repo_id, revision):
        if self.hub.refuses_commits:
            return self.refuse("Refused", status=403)
        lines = [json.loads(line) for line in body.splitlines()]
        self.answer(self.hub.commit(repo_id, lines, kind, revision, "create_pr=1" in self.query))

    def find(self, kind, repo_id, revision):
        """(sha, files) of a revision, or None after having refused."""
        if repo_id not in self.hub.all_of(kind):
            return self.refuse("RepoNotFound")
        try:
            return self.hub.all_of(kind)[repo_id].tree(revision)
        except KeyError:
            return self.refuse("RevisionNotFound")

    def info(self, body, kind, repo_id, revision="main"):
        if found := self.find(kind, repo_id, revision or "main"):
            sha, tree = found
            siblings = [{"rfilename": path} for path in sorted(tree)]
            self.answer({"id": repo_id, "modelId": repo_id, "sha": sha, "private": False, "siblings": siblings})

    def list_tree(self, body, kind, repo_id, revision):
        if found := self.find(kind, repo_id, revision):
            self.answer(
                [
                    {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for path, content in sorted(found[1].items())
                ]
            )

    def resolve(self, body, kind, repo_id, revision, path):
        if found := self.find(kind, repo_id, revision):
            sha, tree = found
            if path not in tree:
                return self.refuse("EntryNotFound", X_Repo_Commit=sha)
            etag = f'"{hashlib.sha1(tree[path]).hexdigest()}"'
            return self.answer(tree[path], ETag=etag, X_Repo_Commit=sha, Content_Type="application/octet-stream")

    REPO = r"(?P<repo_id>[^/]+/[^/]+)"
    KIND = r"/api/(?P<kind>models|spaces)"
    OF_KIND = r"/(?:(?P<kind>spaces)/)?"
    REVISION = r"(?P<revision>[^/]+)"
    ROUTES = [
        (r"/api/whoami-v2", whoami),
        (r"/api/validate-yaml", validate_yaml),
        (r"/api/repos/create", create),
        (r"/api/repos/delete", delete),
        (rf"/api/spaces/{REPO}/variables", variables),
        (rf"{KIND}/{REPO}/branch/{REVISION}", branch),
        (rf"{KIND}/{REPO}/refs", refs),
        (rf"{KIND}/{REPO}/preupload/{REVISION}", preupload),
        (rf"{KIND}/{REPO}/commit/{REVISION}", commit),
        (rf"{OF_KIND}{REPO}\.git/info/lfs/objects/batch", lfs_batch),
        (r"/lfs/(?P<oid>[0-9a-f]+)", lfs_put),
        (rf"{KIND}/{REPO}/tree/{REVISION}(/.*)?", list_tree),
        (rf"{KIND}/{REPO}(/revision/{REVISION})?", info),
        (rf"{OF_KIND}{REPO}/resolve/{REVISION}/(?P<path>.+)", resolve),
    ]
