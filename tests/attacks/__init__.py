"""The table of attacks on fetch, in groups. `make check` runs a part of it, the suite liars all.

publishing.py   the attacks that The Update Framework names
http.py         web servers that break the protocol
deltas.py       false indexes, ranges and patches
freshness.py    news that is hidden from a client with StampKey=, and false stamps
attack.py       what an entry consists of
stage.py        the origin, the mirror and the client of an attack
"""
from attacks import deltas, freshness, http, publishing

GROUPS = {group: attacks for part in (publishing, http, deltas, freshness)
          for group, attacks in part.GROUPS.items()}


def cases():
    """Yield the name of each case, its attack, and whether there is an honest mirror."""
    for group, attacks in GROUPS.items():
        for attack in attacks:
            yield '{}: {}'.format(group, attack.name), attack, False
            if attack.beside is not None:
                yield '{}: {}, beside an honest mirror'.format(group, attack.name), attack, True
