"""How Tako's costs grow with manifests, images and configs. Each table is (title, head, rows).

These figures are not ratios, so a busy machine distorts them. Therefore the shortest of several
rounds counts, and the highest peak of memory.
"""
import os
import shutil
import subprocess
import sys

import rig

MB = 1e6
ENTRIES = 10, 100, 1000, 10000, 100000
IMAGE_MIB = 1, 16, 256, 1024, 4096
CONFIGS = 1, 2, 5, 10, 20, 50
ROUNDS = 3
CONFIG_ROUNDS = 15
ONE_DAY_SECONDS = 86400
MANIFEST_FIGURES = ('no-op fetch, answered 304', 'no-op fetch, answered whole',
                    'fetch of one entry more', 'store of one more')


class Publication:
    """A published manifest of many entries, the same with one more entry, and a client."""

    def __init__(self, bench, count):
        self.bench = bench
        self.name = 'many-{}'.format(count)
        self.served = bench.path('served', self.name)
        self.grown = bench.path('served', self.name + '-grown')
        self.scratch = bench.path('served', self.name + '-scratch')
        self.destination = bench.path('client', self.name)
        self.before = bench.path('client', self.name + '-before')
        self.config = bench.client(self.name, bench.url(self.name))
        grown = self.name + '-grown'
        self.config_of_grown = bench.client(grown, bench.url(grown), self.destination)
        if not os.path.exists(self.served):
            publish = [sys.executable, os.path.join(rig.BENCH, 'publish_many.py')]
            subprocess.run(publish + [self.served, str(count)], check=True,
                           env=dict(rig.ENVIRON, PYTHONPATH=rig.PROJECT))
            shutil.copytree(self.served, self.grown)
            rig.measure(bench.store(self.grown, bench.image('one-more.img', 1 << 16), '99.0'))
            rig.measure(bench.installed + ['fetch', self.config])
            shutil.copytree(self.destination, self.before, symlinks=True)

    def cost(self, figure):
        """Measure one of MANIFEST_FIGURES once."""
        fetch = self.bench.installed + ['fetch', self.config]
        if figure == MANIFEST_FIGURES[0]:
            rig.measure(fetch)                # gets an ETag if there is none yet
        elif figure == MANIFEST_FIGURES[1]:
            manifest = os.path.join(self.destination, 'manifest')
            yesterday = os.stat(manifest).st_mtime - ONE_DAY_SECONDS
            os.utime(manifest, (yesterday, yesterday))
        elif figure == MANIFEST_FIGURES[2]:
            self._start_again(self.before, self.destination)
            fetch[-1] = self.config_of_grown
        else:
            self._start_again(self.served, self.scratch)
            store = self.bench.store(self.scratch, self.bench.path('one-more.img'), '99.0')
            return rig.measure(store)
        cost = rig.measure(fetch)
        if figure == MANIFEST_FIGURES[2]:
            self._start_again(self.before, self.destination)
        return cost

    def once(self, figure):
        """Return a function that measures a figure once, and returns seconds."""
        return lambda: self.cost(figure).seconds

    @staticmethod
    def _start_again(source, target):
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, symlinks=True)
        os.sync()


def manifests(bench):
    """Return the table of manifests from 10 to 100,000 entries."""
    publications = [Publication(bench, count) for count in ENTRIES]
    costs = {(count, figure): [] for count in ENTRIES for figure in MANIFEST_FIGURES}
    for _ in range(ROUNDS):
        for count, publication in zip(ENTRIES, publications):
            for figure in MANIFEST_FIGURES:
                costs[count, figure].append(publication.cost(figure))
    rows = []
    for count, publication in zip(ENTRIES, publications):
        row = [count, os.path.getsize(os.path.join(publication.served, 'manifest'))]
        for figure in MANIFEST_FIGURES:
            row.append('{:.3f}'.format(min(cost.seconds for cost in costs[count, figure])))
        for figure in MANIFEST_FIGURES[1], MANIFEST_FIGURES[3]:
            row.append('{:.1f}'.format(max(cost.peak for cost in costs[count, figure]) / MB))
        rows.append(row)
    head = ['entries', 'bytes'] + [figure + ', s' for figure in MANIFEST_FIGURES]
    head += ['peak of fetch, MB', 'peak of store, MB']
    return [('Manifests', head, rows)]


def images(bench):
    """Return the table of images from 1 MiB to 4 GiB, which are holes that a download fills."""
    rows = []
    for size in (mib << 20 for mib in IMAGE_MIB):
        image = bench.path('growing.img')
        with open(image, 'wb') as stream:
            stream.truncate(size)
        costs = {'store': [], 'fetch': [], 'check': []}
        for _ in range(ROUNDS if size <= 1 << 28 else 1):
            bench.empty('served', 'growing')
            store = bench.store(bench.path('served', 'growing'), image, '1.0')
            costs['store'].append(rig.measure(store))
            config = bench.client('growing', bench.url('growing'))
            bench.empty('client', 'growing')
            costs['fetch'].append(rig.measure(bench.installed + ['fetch', config]))
            costs['check'].append(rig.measure(bench.installed + ['fetch', config]))
        row = [size >> 20]
        for of in costs.values():
            seconds = min(cost.seconds for cost in of)
            row += ['{:.3f}'.format(seconds), '{:.2f}'.format(1e9 * seconds / size),
                    '{:.1f}'.format(max(cost.peak for cost in of) / MB)]
        rows.append(row)
    for name in ('served', 'client'):
        bench.empty(name, 'growing')
    os.unlink(image)
    head = ['MiB'] + [title for command in ('store', 'fetch', 'no-op fetch')
                      for title in (command + ', s', 'ns a byte', 'peak, MB')]
    return [('Images', head, rows)]


def configs(bench):
    """Return the table of 1 to 50 configs of one host in one run."""
    rows = []
    for count in CONFIGS:
        row = [count]
        for server in ('logged', 'logged-tls'):
            paths = []
            for number in range(count):
                name = 'config-{}'.format(number)
                if not os.path.exists(bench.path('served', name)):
                    bench.publish(name, bench.image('one-more.img', 1 << 16))
                paths.append(bench.client('{}-{}'.format(name, server), bench.url(name, server)))
            fetch = bench.installed + ['fetch'] + paths
            rig.measure(fetch, bench.trust)
            logged = bench.requests(fetch, bench.trust)
            seconds = min(rig.measure(fetch, bench.trust).seconds for _ in range(CONFIG_ROUNDS))
            row += [len(logged), len({connection for connection, *_ in logged}),
                    '{:.1f}'.format(1e3 * seconds)]
        rows.append(row)
    head = ['configs', 'http: requests', 'connections', 'ms', 'https: requests', 'handshakes', 'ms']
    return [('Configs in one run', head, rows)]
