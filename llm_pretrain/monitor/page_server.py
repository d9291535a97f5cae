"""One page at a port, made anew for each request."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any

LOOPBACK = "127.0.0.1"
_CLIENT_SECONDS = 5.0


class PageServer:
    """Serves a page from threads that end with the process.

    Only what runs on the same machine reaches the port, unless an address is given with it: there
    is no password.

    Args:
        text: makes the page; threads call it.
        place: a port of loopback, or "ADDRESS:PORT"; port 0 is any that is free.

    Raises:
        OSError: the port is taken, or the address is none of this machine's.
    """

    def __init__(
        self, path: str, content_type: str, text: Callable[[], str], place: int | str
    ) -> None:
        address, _, port = str(place).rpartition(":")
        address = address.strip("[]") or LOOPBACK

        class Server(ThreadingTCPServer):
            # Not HTTPServer, which asks the name service for the host's name.
            address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
            allow_reuse_address = True
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that has gone is no matter of the console's."""

        self._server = Server((address, int(port)), _handler(path, content_type, text))
        host = f"[{address}]" if ":" in address else address
        self.url = f"http://{host}:{self._server.server_address[1]}{path}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, name=f"page {path}", daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        """Return when the server is closed."""
        self._thread.join()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(path: str, content_type: str, text: Callable[[], str]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _CLIENT_SECONDS

        def do_GET(self) -> None:
            if self.path.partition("?")[0] != path:
                self.send_error(404)
                return
            try:
                body = text().encode()
            except Exception as error:  # of what is shown, and told to who looks
                self.send_error(500, explain=str(error))
                return
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing on the console."""

    return Handler
