"""Clients that hold connections, send slowly, or send what no client sends; for tests and tools/fuzz_server.py."""

import socket
import time
from contextlib import suppress

from tests.serving.bombs import BODY, repeat
from tests.serving.fakes import make_picture
from tests.serving.processes import ServerProcess

PART = b'--b\r\ncontent-disposition: form-data; name="f"; filename="a"\r\n\r\n'
FIELD = b'--b\r\ncontent-disposition: form-data; name="f"\r\n\r\nx\r\n'
INNER = b'--b\r\ncontent-disposition: form-data; name="f"\r\ncontent-type: multipart/mixed; boundary=c\r\n\r\n--c\r\n'
END = b"\r\n--b--\r\n"
FORMS = {  # bodies of multipart forms with the boundary b, and the status of the answer
    "100,000 fields": (FIELD * 100_000 + END, 400),
    "1,001 files": ((PART + b"x\r\n") * 1001 + END, 413),
    "forms in forms": (INNER * 1000 + make_picture() + END, 400),
    "a part of 3 million headers": (b"--b\r\n" + repeat(b"a:b\r\n") + b"\r\nx" + END, 400),
    "a header of 19.9 MB": (b"--b\r\na: " + b"a" * BODY + b"\r\n\r\nx" + END, 400),
    "a field of 19.9 MB": (FIELD[:-3] + b"x" * BODY + END, 400),
    "1 million parameters": (PART[:-4] + b";a=b" * 1_000_000 + b"\r\n\r\nx" + END, 400),
    "boundaries that almost are": (PART + repeat(b"\r\n--") + END, 415),
    "19.9 MB of line ends before it": (repeat(b"\r\n") + PART + make_picture() + END, 200),
    "19.9 MB of line ends behind it": (PART + make_picture() + END + repeat(b"\r\n"), 200),
    "a name of 1 MB": (PART[:-6] + b"a" * 1_000_000 + b'"\r\n\r\n' + make_picture() + END, 400),
}  # fmt: skip
POST = b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"
FORM_TYPE = "content-type: multipart/form-data; boundary=b"
JSON = {  # bodies of JSON, and the statuses that an answer may have
    "a million lists in each other": (b"[" * 1_000_000, (400,)),
    "a million values": (b"[" + b"1," * 1_000_000 + b"1]", (400,)),
    "a number of 19.9 MB": (b'{"images": [' + b"9" * BODY + b"]}", (400,)),
    "a key of 19.9 MB": (b'{"' + b"a" * BODY + b'": 1}', (400, 422)),
    "not a number": (b'{"images": [NaN]}', (400,)),
    "infinity": (b'{"images": [1e999]}', (400, 422)),
    "19.9 MB of escapes": (b'{"images": ["' + repeat(b"\\u0041") + b'"]}', (400, 413, 415)),
    "19.9 MB that are no base64": (b'{"images": ["' + b"=" * BODY + b'"]}', (400, 422)),
    "halves of characters": (b'{"images": ["\\ud800"]}', (400, 422)),
    "bytes that are no text": (b'{"images": ["\xff\xfe"]}', (400,)),
    "an address": (b'{"images": ["http://169.254.169.254/latest"], "inputs": "http://169.254.169.254/"}', (400, 422)),
    "a path": (b'{"images": ["file:///etc/passwd"], "inputs": "/etc/passwd"}', (400, 422)),
}
JSON_TYPE = "content-type: application/json"
REQUESTS = {  # whole requests that are not valid HTTP/1.1, or contradict themselves
    "a negative length": POST + b"content-length: -1\r\n\r\n",
    "a length with a sign": POST + b"content-length: +5\r\n\r\nhello",
    "two lengths": POST + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    "a length beyond all": POST + b"content-length: " + b"9" * 19 + b"\r\n\r\n",
    "a length of thousands of digits": b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: " + b"9" * 9000 + b"\r\n\r\n",
    "a chunk of a negative size": CHUNKED + b"-5\r\n",
    "a chunk beyond all": CHUNKED + b"FFFFFFFFFFFFFFFF\r\n",
    "another encoding": POST + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "headers split over lines": b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\tevil: yes\r\n x: y\r\nz\r\n\r\n",
    "a byte zero in a header": b"GET /healthz HTTP/1.1\r\nhost: local\0host\r\n\r\n",
    "no version": b"GET /healthz\r\n\r\n",
    "version 2": b"PRI * HTTP/2.0\r\n\r\n",
    "100,000 headers": b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n" + b"a: b\r\n" * 100_000 + b"\r\n",
    "an address of 1 MB": b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "two hosts": b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\n\r\n",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
}  # fmt: skip


def connect_many(server: ServerProcess, count: int) -> list[socket.socket]:
    """Open connections."""
    found = []
    for _ in range(count):
        connection = server.connect()
        connection.setblocking(False)
        found.append(connection)
    return found


def drip(connections: list[socket.socket], data: bytes) -> int:
    """Send the same few bytes on every connection that is still open; return how many took them."""
    sent = 0
    for connection in connections:
        with suppress(OSError):
            sent += connection.send(data) > 0
    return sent


def has_ended(connection: socket.socket) -> bool:
    """Return whether the server closed a connection that does not block; ``select`` takes no more than 1,024."""
    try:
        while connection.recv(1 << 16):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def wait_until_closed(connections: list[socket.socket], seconds: float) -> int:
    """Wait until the server has closed connections, at most so long; return how many are left open."""
    left, end = list(connections), time.monotonic() + seconds
    while left and time.monotonic() < end:
        left = [connection for connection in left if not has_ended(connection)]
        time.sleep(0.05)
    return len(left)
