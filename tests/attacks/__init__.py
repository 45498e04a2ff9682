"""One table of attacks on fetch, in groups. `make check` runs the marked ones, the suite liars runs all.

publishing.py has the attacks that The Update Framework names, http.py those of a web server that breaks the
protocol, deltas.py those on updates by ranges and patches. attack.py says what an entry consists of, stage.py has
the origin, the mirror and the client of an attack.
"""
from attacks import deltas, http, publishing

GROUPS = dict(publishing.GROUPS, **dict(http.GROUPS, **deltas.GROUPS))


def cases():
    """Yield the name of each attack, the attack, and whether an honest mirror stands beside the liar."""
    for group, attacks in GROUPS.items():
        for attack in attacks:
            yield '{}: {}'.format(group, attack.name), attack, False
            if attack.beside is not None:
                yield '{}: {}, beside an honest mirror'.format(group, attack.name), attack, True
