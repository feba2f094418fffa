"""A host of repositories and a stand-in for GitHub's API: `forge.py FOLDER TOKEN ELSEWHERE`.

Listens on port 8080 of every address. At the address ELSEWHERE it is another host, that wants a login and lets nobody in. What it is asked is in
FOLDER/asked, one JSON object a line.

/git/NAME.git     repositories of FOLDER, read and written; those whose name begins with private want TOKEN
/moved/NAME.git   leads to the same path at ELSEWHERE
/hang/NAME.git    says nothing
/api/repos/O/R    a repository whose default branch is trunk; /pulls and /issues take what is proposed
"""

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FOLDER, TOKEN, ELSEWHERE = sys.argv[1:4]
BACKEND = subprocess.run(["git", "--exec-path"], capture_output=True, text=True, check=True).stdout.strip() + "/git-http-backend"
LOCK = threading.Lock()


class Forge(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def body(self):
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def say(self, status, body=b"", headers=()):
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def json(self, status, value):
        self.say(status, json.dumps(value).encode(), [("Content-Type", "application/json")])

    def login(self):
        """What was sent as a password or a bearer token, if anything was."""
        kind, _, value = self.headers.get("Authorization", "").partition(" ")
        return base64.b64decode(value).decode().partition(":")[2] if kind == "Basic" else value

    def handle_all(self):
        here, body, login = self.connection.getsockname()[0], self.body(), self.login()
        path = self.path.partition("?")[0]
        with LOCK, open(FOLDER + "/asked", "a") as asked:
            text = body.decode() if path.startswith("/api/") else ""
            asked.write(json.dumps({"at": here, "method": self.command, "path": self.path, "login": login, "body": text}) + "\n")
        if here == ELSEWHERE:
            self.say(401, headers=[("WWW-Authenticate", 'Basic realm="elsewhere"')])
        elif path.startswith("/moved/"):
            self.say(302, headers=[("Location", f"http://{ELSEWHERE}:8080{self.path}")])
        elif path.startswith("/hang/"):
            # Until the client leaves.
            self.connection.recv(1)
            self.close_connection = True
        elif path.startswith("/git/private") and login != TOKEN:
            self.say(401, headers=[("WWW-Authenticate", 'Basic realm="forge"')])
        elif path.startswith("/git/"):
            self.git(path[len("/git"):], body)
        elif path.startswith("/api/repos/"):
            self.api(path.split("/")[3:], login, json.loads(body or b"null"))
        else:
            self.say(404)

    def git(self, path, body):
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": FOLDER,
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "PATH_INFO": path,
            "QUERY_STRING": self.path.partition("?")[2],
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "REMOTE_USER": "forge",
        }
        said = subprocess.run([BACKEND], input=body, env=environment, stdout=subprocess.PIPE).stdout
        head, _, rest = said.partition(b"\r\n\r\n")
        headers = [line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line]
        status = next((int(value.split()[0]) for name, value in headers if name == "Status"), 200)
        self.say(status, rest, [header for header in headers if header[0] != "Status"])

    def api(self, parts, login, body):
        if login != TOKEN:
            self.json(401, {"message": f"Bad credentials {login}"})
        elif len(parts) == 2:
            self.json(200, {"default_branch": "trunk"})
        elif self.command == "POST" and parts[2] in ("pulls", "issues"):
            url = f"http://forge/{'/'.join(parts)}/7"
            self.json(201, {"html_url": url, "number": 7, "title": body["title"], "base": {"ref": body.get("base")}})
        else:
            self.json(404, {"message": "Not Found"})

    do_GET = do_POST = do_PUT = handle_all


ThreadingHTTPServer.request_queue_size = 64
ThreadingHTTPServer(("0.0.0.0", 8080), Forge).serve_forever()
