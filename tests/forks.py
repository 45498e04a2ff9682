"""A process that has loaded tako.py and forks for each run, which saves a start of Python.

    forks.py DESCRIPTOR         a socket that sends requests until it is closed

A request is one packet: a run as JSON, with four descriptors: stdin, stdout and stderr of the run,
and a pipe. forks.py writes the process id of the run into that pipe, and at its end the status as
os.waitpid() returns it. scene.py has the other side.
"""
import array
import contextlib
import gc
import json
import os
import random
import signal
import socket
import struct
import sys
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tako

CONFIG = """
Origin=http://localhost/
PublicKey=l0D28J2fiIXvWPbeZP7wkaq+dB55Gl2ysigl9mQH29k=
Destination=/
Version=1.*
Restart=app.service
Keep=1
"""
REQUEST_MAX_BYTES = 1 << 20
NUMBER = struct.Struct('=i')            # of the process, and then of its status


def load():
    """Import the modules that runs import when needed, and compile the patterns of tako.py."""
    import bisect, concurrent.futures.thread, difflib, encodings.idna # noqa: E401, F401
    import ipaddress, lzma, mmap                                        # noqa: E401, F401
    import select, socket, ssl, urllib.parse, zlib                      # noqa: E401, F401
    tako.argument_parser()
    tako.parse_config(CONFIG)


def receive(requests):
    """Return the next request and its descriptors; None after the last."""
    numbers = array.array('i')
    space = socket.CMSG_SPACE(4 * numbers.itemsize)
    packet, ancillary, _, _ = requests.recvmsg(REQUEST_MAX_BYTES, space)
    for _, _, content in ancillary:
        numbers.frombytes(content)
    return (json.loads(packet.decode()), list(numbers)) if packet else None


def supervise(request, descriptors):
    """Start the run and report its process, wait for its end and report its status."""
    report = descriptors.pop()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(report)
            code = run(request, descriptors)
        except BaseException:
            traceback.print_exc()
            if sys.stderr is not None:
                sys.stderr.flush()
        finally:
            os._exit(code)
    for each in descriptors:
        os.close(each)
    os.write(report, NUMBER.pack(child))
    os.write(report, NUMBER.pack(os.waitpid(child, 0)[1]))


def run(request, descriptors):
    """Do the run as a new process would. Return its exit code."""
    os.setpgid(0, request['group'])
    for number, each in enumerate(descriptors):
        os.dup2(each, number)
        os.close(each)
    os.chdir(request['directory'])
    os.environ.clear()
    os.environ.update(request['environ'])
    time.tzset()
    random.seed()
    sys.argv[1:] = request['arguments']
    for name, value in request['limits'].items():
        assert hasattr(tako, name)
        setattr(tako, name, value)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    tako.stop_on_signals()
    try:
        tako.end(tako.main(request['arguments']))
    except SystemExit as end:
        gc.collect()            # files left open warn now
        if sys.stderr is not None:          # it is None after a signal
            sys.stderr.flush()
        return end.code


def main(descriptor):
    """Serve requests until the socket is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    load()
    gc.collect()
    if hasattr(gc, 'freeze'):       # novm: guarded
        gc.freeze()     # novm  # a collection would touch, and so copy, what forks share
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=descriptor) as requests:
        for request, descriptors in iter(lambda: receive(requests), None):
            if os.fork() == 0:
                try:
                    requests.close()
                    supervise(request, descriptors)
                finally:
                    os._exit(0)
            for each in descriptors:
                os.close(each)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:    # supervisors that have ended
                    pass


if __name__ == '__main__':
    main(int(sys.argv[1]))
