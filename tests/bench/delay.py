"""A line with a delay and a rate, on loopback: delay.py PORT ONE_WAY_MS [MBIT_PER_SECOND]

Prints the port it listens on; carries each connection to PORT; ends when its standard input does. Each byte arrives
ONE_WAY_MS after it was sent, both ways; a new connection costs the round trip of its handshake before its first byte
goes. The rate is shared by all connections, as a real line's is. What TCP does about losses is not imitated, nor that
it starts slowly.
"""
import asyncio
import socket
import sys
import threading

CHUNK_BYTES = 1 << 16
WINDOW_BYTES = 4 << 20          # under way on one connection at most; Linux's TCP allows about as much
BUFFER_BYTES = 128 << 10        # of the socket to the server: what waits there has left the server but not gone far
CATCH_UP_SECONDS = 0.02         # that a sleep which took too long may be made up for


class Line:
    """One direction of the line.

    delay: in seconds, one way. rate: in bytes a second, or None for no bound.
    """

    def __init__(self, delay, rate):
        self.delay = delay
        self.rate = rate
        self.free = 0.0         # when all that was sent before has left

    async def send(self, size):
        """Wait until so many bytes have left; when they will arrive."""
        now = asyncio.get_event_loop().time()
        if self.rate is None:
            return now + self.delay
        self.free = max(self.free, now - CATCH_UP_SECONDS) + size / self.rate
        await asyncio.sleep(max(0, self.free - now))
        return max(self.free, now) + self.delay


async def receive(reader, queue, line):
    """Put what is read into the queue, each chunk with the time it is due; nothing marks the end."""
    chunk = b'first'
    while chunk:
        try:
            chunk = await reader.read(CHUNK_BYTES)
        except OSError:
            chunk = b''
        await queue.put((await line.send(len(chunk)), chunk))


async def carry(reader, writer, line):
    """Write what is read, later."""
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
        pass                    # the other end has gone
    finally:
        receiving.cancel()


async def connect(port):
    """A connection to the server, which sees soon when nobody reads on."""
    end = socket.socket()
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    end.setblocking(False)
    await asyncio.get_event_loop().sock_connect(end, ('127.0.0.1', port))
    return await asyncio.open_connection(sock=end)


class Proxy:
    """Accepts connections and carries each to the port; one that closes at either end closes at both."""

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
