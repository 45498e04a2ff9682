"""Fuzzes one target for so many seconds, or until a fault: fuzz.py TARGET SECONDS SEED FOLDER.

It writes seeds to FOLDER/seeds. An input that fails or takes too long is left in FOLDER as
crash-... or timeout-... The target `a planted fault` has a fault, which has to be found.
"""
import os
import resource
import sys

import atheris

with atheris.instrument_imports(include=['tako', 'urllib.parse']):
    import urllib.parse     # noqa: F401

    import tako             # noqa: F401

import targets

MEMORY_BYTES = 192 << 20        # beyond the memory at the start: for three decompressors
INPUT_SECONDS = 60              # that one input may take on a busy machine


@atheris.instrument_func
def planted(data):
    """Fail at one input of 2^32, which only coverage finds: each right byte reaches more code."""
    for at in range(4):
        if data[at:at + 1] != b'tako'[at:at + 1]:
            return
    raise IndexError(data)


def main():
    name, seconds, seed, folder = sys.argv[1:]
    target = targets.TARGETS.get(name) or targets.Target(planted, (), lambda *_: None, [b'seed'], 8)
    seeds = os.path.join(folder, 'seeds')
    os.mkdir(seeds)
    for number, data in enumerate(target.seeds):
        with open(os.path.join(seeds, str(number)), 'wb') as new:
            new.write(data)
    with open('/proc/self/statm') as statm:
        has = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (has + MEMORY_BYTES, has + MEMORY_BYTES))
    atheris.Setup([sys.argv[0], '-max_total_time=' + seconds, '-seed=' + seed,
                   '-timeout=' + str(INPUT_SECONDS),
                   '-max_len=' + str(target.max_bytes), '-artifact_prefix=' + folder + os.sep,
                   '-print_final_stats=1',
                   '-verbosity=0', seeds], lambda data: targets.check(target, data) and None)
    atheris.Fuzz()


if __name__ == '__main__':
    main()
