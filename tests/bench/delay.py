"""Simulates a line with a delay and a rate on loopback: delay.py PORT ONE_WAY_MS [MBIT_PER_SECOND]

It prints the port on which it listens, and relays each connection to PORT, until its standard input
ends. Each byte arrives ONE_WAY_MS after it was sent, in both directions. A new connection first
costs the round trip of its handshake. All connections share the rate. Losses of packets and the
slow start of TCP are not simulated.
"""
import asyncio
import socket
import sys
import threading

CHUNK_BYTES = 1 << 16
WINDOW_BYTES = 4 << 20          # in transit on a connection at most, about as much as Linux allows
BUFFER_BYTES = 128 << 10        # of the socket to the server, which counts these bytes as sent
CATCH_UP_SECONDS = 0.02         # by how much too long a sleep may be for the rate to catch up


class Line:
    """One direction of the line.

    delay: seconds in one direction. rate: bytes a second, or None for no limit.
    """

    def __init__(self, delay, rate):
        self.delay = delay
        self.rate = rate
        self.free = 0.0         # the time when all earlier bytes have left

    async def send(self, size):
        """Wait until `size` bytes have left. Return the time when they arrive."""
        now = asyncio.get_event_loop().time()
        if self.rate is None:
            return now + self.delay
        self.free = max(self.free, now - CATCH_UP_SECONDS) + size / self.rate
        await asyncio.sleep(max(0, self.free - now))
        return max(self.free, now) + self.delay


async def receive(reader, queue, line):
    """Put each chunk into the queue with the time when it arrives. An empty chunk is the end."""
    chunk = b'first'
    while chunk:
        try:
            chunk = await reader.read(CHUNK_BYTES)
        except OSError:
            chunk = b''
        await queue.put((await line.send(len(chunk)), chunk))


async def carry(reader, writer, line):
    """Write what the other end sent, when it arrives."""
    loop = asyncio.get_event_loop()
    queue = asyncio.Queue(WINDOW_BYTES // CHUNK_BYTES)
    receiving = asyncio.ensure_future(receive(reader, queue, line))
    try:
        while True:
            due, chunk = await queue.get()
            await asyncio.sleep(max(0, due - loop.time()))
            if not chunk:
                return
            writer.write(chunk)
            await writer.drain()
    except OSError:
        pass                    # the other end closed the connection
    finally:
        receiving.cancel()


async def connect(port):
    """Connect to the server, with a small buffer, so that it soon notices a slow reader."""
    end = socket.socket()
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    end.setblocking(False)
    await asyncio.get_event_loop().sock_connect(end, ('127.0.0.1', port))
    return await asyncio.open_connection(sock=end)


class Proxy:
    """Relays connections to a port. If one end closes a connection, it closes the other end."""

    def __init__(self, port, up, down):
        self.port = port
        self.up = up
        self.down = down

    async def accept(self, reader, writer):
        await asyncio.sleep(self.up.delay + self.down.delay)
        far_reader, far_writer = await connect(self.port)
        ways = [asyncio.ensure_future(carry(reader, far_writer, self.up)),
                asyncio.ensure_future(carry(far_reader, writer, self.down))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            far_writer.close()
            writer.close()


def main(arguments):
    port, delay = int(arguments[0]), float(arguments[1]) / 1000
    rate = float(arguments[2]) * 1e6 / 8 if len(arguments) > 2 else None
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    proxy = Proxy(port, Line(delay, rate), Line(delay, rate))
    server = loop.run_until_complete(asyncio.start_server(proxy.accept, '127.0.0.1', 0))
    print(server.sockets[0].getsockname()[1], flush=True)

    def wait_for_end():
        sys.stdin.buffer.read()
        loop.call_soon_threadsafe(loop.stop)
    threading.Thread(target=wait_for_end, daemon=True).start()
    loop.run_forever()


if __name__ == '__main__':
    main(sys.argv[1:])
