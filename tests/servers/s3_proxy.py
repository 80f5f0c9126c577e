"""What stands between a client and an S3 server: counts requests, and spoils some of them."""

import socket
import threading
from collections import Counter
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

ERROR = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{code} it is'
    "</Message><RequestId>1</RequestId></Error>"
)


class Request(NamedTuple):
    kind: str
    """list, versions, versioning, get, head, put, delete, or the method."""
    key: str
    query: dict
    headers: dict

    @classmethod
    def of(cls, method, path, headers):
        parts = urlsplit(path)
        query = parse_qs(parts.query, keep_blank_values=True)
        _, _, key = parts.path.lstrip("/").partition("/")
        kind = method.lower()
        if method == "GET" and not key:
            special = [name for name in ("versions", "versioning") if name in query]
            kind = special[0] if special else "list"
        return cls(kind, key, query, dict(headers))


class Answer(NamedTuple):
    status: int
    headers: list
    body: bytes


# What can be done to a request: each takes the handler, and a function that asks the server.


def error(status, code):
    """An S3 server's way to refuse."""

    def spoil(handler, ask):
        handler.answer(Answer(status, [("Content-Type", "application/xml")], xml(code)))

    def xml(code):
        return ERROR.format(code=code).encode()

    return spoil


def says(body, status=200, content_type="text/html"):
    def spoil(handler, ask):
        handler.answer(Answer(status, [("Content-Type", content_type)], body))

    return spoil


def changed(edit):
    """The server's answer, its body edited."""

    def spoil(handler, ask):
        answer = ask()
        handler.answer(answer._replace(body=edit(answer.body)))

    return spoil


def after(event, then=None):
    """Not before `event`."""

    def spoil(handler, ask):
        event.wait(60)
        handler.answer(ask())

    return spoil


def cut(handler, ask):
    """Half of the body, then nothing."""
    answer = ask()
    handler.answer(answer._replace(body=answer.body[: len(answer.body) // 2]), len(answer.body))
    handler.hang_up()


def lost(handler, ask):
    """It is done, but nobody hears of it."""
    ask()
    handler.hang_up()


def refused(handler, ask):
    """Nothing is done, nothing is said."""
    handler.hang_up()


def unconditionally(handler, ask):
    """As of a server that knows no conditions."""
    handler.answer(ask(without=("if-match", "if-none-match")))


class Proxy:
    """In front of `url`; a context manager.

    `requests` are those seen since `forget`.
    """

    def __init__(self, url, port=0):
        self.requests = []
        self._rules = []
        self._lock = threading.Lock()
        self._open = set()
        proxy, upstream = self, urlsplit(url).netloc

        class Handler(_Handler):
            def setup(self):
                super().setup()
                proxy._open.add(self.request)
                self.proxy, self.upstream = proxy, HTTPConnection(upstream, timeout=60)

            def finish(self):
                with suppress(OSError):
                    super().finish()
                self.upstream.close()
                proxy._open.discard(self.request)

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

        self._server = Server(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def counts(self):
        """How many requests of each kind."""
        return Counter(request.kind for request in list(self.requests))

    def forget(self):
        self.requests.clear()

    def spoil(self, kind, how, *, skip=0, times=None, when=lambda request: True):
        """From now on do `how` to `times` requests of `kind`, but not to the first `skip`."""
        rule = {"kind": kind, "how": how, "skip": skip, "left": times, "when": when, "hits": 0}
        with self._lock:
            self._rules.append(rule)
        return rule

    def heal(self):
        with self._lock:
            self._rules.clear()

    def find(self, request):
        with self._lock:
            self.requests.append(request)
            for rule in self._rules:
                if rule["kind"] not in ("*", request.kind) or not rule["when"](request):
                    continue
                if rule["skip"]:
                    rule["skip"] -= 1
                elif rule["left"] != 0:
                    rule["left"] = rule["left"] and rule["left"] - 1
                    rule["hits"] += 1
                    return rule["how"]
        return None

    def close(self):
        """Also the connections; who connects from now on is refused."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _pass(self):
        request = Request.of(self.command, self.path, self.headers)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        how = self.proxy.find(request)

        def ask(without=()):
            hidden = {"host", "expect", "connection", *without}
            headers = {k: v for k, v in self.headers.items() if k.lower() not in hidden}
            self.upstream.request(self.command, self.path, body, headers)
            answer = self.upstream.getresponse()
            return Answer(answer.status, answer.getheaders(), answer.read())

        try:
            if how is None:
                self.answer(ask())
            else:
                how(self, ask)
        except (OSError, HTTPException):
            self.hang_up()

    do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = _pass

    def answer(self, answer, length=None):
        self.send_response_only(answer.status)
        told = {name.lower(): value for name, value in answer.headers}
        for name, value in answer.headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        if self.command == "HEAD":
            length = told.get("content-length", 0)
        self.send_header("Content-Length", str(len(answer.body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def hang_up(self):
        self.close_connection = True
        with suppress(OSError):
            self.request.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_):
        pass
