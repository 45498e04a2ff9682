"""A process that has loaded tako.py and forks for each run, which spares the start of a Python: scene.py talks to it.

Each line that comes in is a run, as JSON: its arguments, environ, directory, the files for its output, and limits of
tako's to be other than they are. Each line that goes out is how a run ended, as os.wait() has it.
"""
import gc
import json
import os
import signal
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tako


def run(asked):
    """Be the run that was asked for, with all that a process of its own would have; the exit code."""
    for descriptor, path in enumerate((os.devnull, asked['out'], asked['err'])):
        opened = os.open(path, os.O_RDWR)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.chdir(asked['directory'])
    os.environ.clear()
    os.environ.update(asked['environ'])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    for name, value in asked['limits'].items():
        assert hasattr(tako, name)
        setattr(tako, name, value)
    tako.stop_on_signals()
    try:
        tako.end(tako.main(asked['arguments']))
    except SystemExit as end:
        gc.collect()            # what was left open says so
        sys.stderr.flush()
        return end.code


def main():
    """Serve until nobody asks any more."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 99
            try:
                code = run(json.loads(line))
            finally:
                os._exit(code)
        print(os.waitpid(child, 0)[1], flush=True)


if __name__ == '__main__':
    main()
