"""A port in front of a server, through which the server can be away and come back."""

import contextlib
import socket
import threading


class Relay:
    """Carries connections to a server of this machine.

    Args:
        target: port of the server.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self._listener = self._listen(0)
        self.port = self._listener.getsockname()[1]

    def leave(self) -> None:
        """Ends all connections; new ones are refused."""
        self._listener.shutdown(socket.SHUT_RDWR)  # Else the thread would go on to wait on it.
        self._listener.close()
        with self._lock:
            for one in self._open:
                _end(one)
            self._open.clear()

    def come_back(self) -> None:
        """Listens again, on the same port."""
        self._listener = self._listen(self.port)

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:  # It has left.
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            with self._lock:
                if listener.fileno() < 0:  # It has left meanwhile.
                    _end(client)
                    _end(server)
                    return
                self._open += [client, server]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=_carry, args=(source, sink), daemon=True).start()


def _carry(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    _end(source)
    _end(sink)


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):  # The other side was first.
        one.shutdown(socket.SHUT_RDWR)
    one.close()
