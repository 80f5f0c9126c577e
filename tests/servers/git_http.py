"""A smart HTTP server: `git http-backend` behind basic auth, and what a test may do to it."""

import base64
import os
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.repositories import ENVIRONMENT, GIT

USER, PASSWORD = "reader", "s3cr3t-p@ss/word"


class GitServer:
    """Serves the repositories below `root` at ``url``.

    `status`, if set, is what every request is answered with; `hold` keeps answers back.
    """

    def __init__(self, root, *, user=USER, password=PASSWORD):
        self.root = root
        self.expected = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self.status = None
        self.hold = None
        self.requests = []
        self._asked = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = False
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}
        )
        self._thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def wait_for_requests(self, count):
        with self._asked:
            assert self._asked.wait_for(lambda: len(self.requests) >= count, 30)

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self):
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server._answer(self)

            do_POST = do_GET

            def log_message(self, *_):
                pass

        return Handler

    def _answer(self, request):
        body = self._body(request)
        with self._asked:
            self.requests.append((request.command, request.path))
            self._asked.notify_all()
        if self.hold is not None:
            self.hold.wait(60)
        if self.status is not None:
            return _refuse(request, self.status)
        if request.headers.get("Authorization") != self.expected:
            return _refuse(request, 401)
        return self._run(request, body)

    def _body(self, request):
        if request.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(request.rfile.readline(), 16):
                parts.append(request.rfile.read(size))
                request.rfile.readline()
            request.rfile.readline()
            return b"".join(parts)
        return request.rfile.read(int(request.headers.get("Content-Length") or 0))

    def _run(self, request, body):
        path, _, query = request.path.partition("?")
        environment = {
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REQUEST_METHOD": request.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": request.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "REMOTE_USER": USER,
            "REMOTE_ADDR": "127.0.0.1",
            "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""),
            "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
        }
        result = subprocess.run(
            [GIT, "http-backend"],
            input=body,
            capture_output=True,
            check=False,
            env=os.environ | ENVIRONMENT | environment,
        )
        head, _, content = result.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines() if line)
        request.send_response(int(headers.pop("Status", "200 OK").split()[0]))
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)


def _refuse(request, status):
    request.send_response(status)
    if status == 401:
        request.send_header("WWW-Authenticate", 'Basic realm="test"')
    request.send_header("Content-Length", "0")
    request.end_headers()
