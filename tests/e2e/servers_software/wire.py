"""The wire between a client and a server: it counts received bytes, breaks, or stalls."""
import contextlib
import socket
import threading


class Wire:
    """Relays bytes while the `with` lasts, and counts those from the server in `received`.

    listener: a bound socket for clients, which may belong to another network namespace. By default
    the wire makes one at the host.
    """

    def __init__(self, host, port, listener=None):
        self.received = 0
        self.stalled = threading.Event()
        self._cut_at = self._stall_at = float('inf')
        self._target = host, port
        self._lock = threading.Lock()
        self._open = set()
        if listener is None:
            listener = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET)
            listener.bind((host, 0))
        self._listener = listener
        self._listener.listen(64)
        self.port = self._listener.getsockname()[1]

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error):
        self._end(self._listener)
        for each in list(self._open):
            self._end(each)
        self._listener.close()

    def cut(self, after):
        """Close one connection when `after` more bytes have come from the server."""
        with self._lock:
            self._cut_at = self.received + after

    def stall(self, after):
        """Stop when `after` more bytes have come from the server, and set `stalled` then."""
        with self._lock:
            self._stall_at = self.received + after

    def heal(self):
        """Begin anew: count from 0, relay everything, and close the connections."""
        with self._lock:
            self._cut_at = self._stall_at = float('inf')
            self.received = 0
            self.stalled.clear()
        for each in list(self._open):
            self._end(each)

    def _end(self, each):
        self._open.discard(each)
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            self._open.update((client, server))
            threading.Thread(target=self._pass, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, True), daemon=True).start()

    def _pass(self, source, target, is_counted):
        with contextlib.suppress(OSError):
            for block in iter(lambda: source.recv(16384), b''):
                if is_counted and not self._may_pass(len(block)):
                    break
                target.sendall(block)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
        if is_counted:
            self._end(source)
            self._end(target)
            source.close()
            target.close()

    def _may_pass(self, size):
        with self._lock:
            self.received += size
            if self.received >= self._cut_at:
                self._cut_at = float('inf')
                return False
            is_stalled = self.received >= self._stall_at
        if is_stalled:
            self.stalled.set()
            while self._stall_at != float('inf'):
                threading.Event().wait(0.05)
            return False
        return True
