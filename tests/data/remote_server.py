"""A web server for tests: a folder over real HTTP, failing as it is told."""

import contextlib
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAUSE_S = 0.02  # between the pieces of a slow answer
N_PIECES = 10


class Server:
    """Serves a folder.

    Attributes:
        faults: File name to what happens to the next requests for it, one after the other: a
            status, "cut", "flip", "long", "close" or "slow". The last of them, where it is "...",
            repeats the one before it for ever.
        requests: How often each file was asked for.
    """

    def __init__(self, folder):
        self.folder = folder
        self.faults = {}
        self.requests = Counter()
        self.lock = threading.Lock()
        self.http = ThreadingHTTPServer(
            ("127.0.0.1", 0), type("Own", (Handler,), {"server_": self})
        )
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def take_fault(self, name):
        with self.lock:
            self.requests[name] += 1
            faults = self.faults.get(name, [])
            if len(faults) == 2 and faults[1] == "...":
                return faults[0]
            return faults.pop(0) if faults else None


class Handler(BaseHTTPRequestHandler):
    server_: Server

    def log_message(self, *_):
        pass

    def do_GET(self):
        name = self.path.lstrip("/")
        fault = self.server_.take_fault(name)
        file = self.server_.folder / name
        if isinstance(fault, int) or not file.is_file():
            self.send_error(fault if isinstance(fault, int) else 404)
            return
        content = bytearray(file.read_bytes())
        if fault == "flip":
            content[len(content) // 2] ^= 1
        if fault == "long":
            content += b"0" * 1000
        if fault == "close":
            self.connection.close()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if fault == "cut":
            content = content[: len(content) // 2]
        step = -(-len(content) // N_PIECES) if fault == "slow" else len(content) or 1
        for start in range(0, len(content), step):
            with contextlib.suppress(OSError):  # who asked may have left
                self.wfile.write(content[start : start + step])
            time.sleep(PAUSE_S if fault == "slow" else 0)


@contextlib.contextmanager
def serve(folder):
    server = Server(folder)
    thread = threading.Thread(target=server.http.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()
