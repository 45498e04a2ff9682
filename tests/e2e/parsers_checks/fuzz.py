"""Fuzzes one target until a time is over, or a fault found: fuzz.py TARGET SECONDS SEED FOLDER, by an atheris' Python.

Seeds are written to FOLDER/seeds; the input that was at fault, or took too long, is left in FOLDER as crash-... or timeout-...
The target `a planted fault` has one, which has to be found.
"""
import os
import resource
import sys

import atheris

with atheris.instrument_imports(include=['tako', 'urllib.parse']):
    import urllib.parse     # noqa: F401

    import tako             # noqa: F401

import targets

MEMORY_BYTES = 192 << 20        # more than this process has when it begins: three decompressors, and a margin
INPUT_SECONDS = 60              # that one input may take, on a machine that is busy otherwise


@atheris.instrument_func
def planted(data):
    """Fails at an input in 2^32, which is found by coverage alone: each byte that is right leads further."""
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
    atheris.Setup([sys.argv[0], '-max_total_time=' + seconds, '-seed=' + seed, '-timeout=' + str(INPUT_SECONDS),
                   '-max_len=' + str(target.max_bytes), '-artifact_prefix=' + folder + os.sep, '-print_final_stats=1',
                   '-verbosity=0', seeds], lambda data: targets.check(target, data) and None)
    atheris.Fuzz()


if __name__ == '__main__':
    main()
