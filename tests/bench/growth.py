"""How Tako's costs grow with manifests, images and configs. Tables are titles, heads, and rows.

Of several rounds the shortest counts, since nothing stands beside these that a busy machine would slow down alike;
and of peaks of memory the highest.
"""
import os
import shutil
import subprocess
import sys

import stage

MB = 1e6
ENTRIES = 10, 100, 1000, 10000, 100000
IMAGE_MIB = 1, 16, 256, 1024, 4096
CONFIGS = 1, 2, 5, 10, 20, 50
ROUNDS = 3
CONFIG_ROUNDS = 15
ONE_DAY_SECONDS = 86400
MANIFEST_FIGURES = 'no-op fetch, answered 304', 'no-op fetch, answered whole', 'fetch of one entry more', 'store of one more'


class Publication:
    """A manifest of many entries, what serves it, and who fetches it."""

    def __init__(self, scene, count):
        self.scene = scene
        self.name = 'many-{}'.format(count)
        self.served = scene.path('served', self.name)
        self.grown = scene.path('served', self.name + '-grown')
        self.scratch = scene.path('served', self.name + '-scratch')
        self.destination = scene.path('client', self.name)
        self.before = scene.path('client', self.name + '-before')
        self.config = scene.client(self.name, scene.url(self.name))
        self.config_of_grown = scene.client(self.name + '-grown', scene.url(self.name + '-grown'), self.destination)
        if not os.path.exists(self.served):
            subprocess.run([sys.executable, os.path.join(stage.BENCH, 'publish_many.py'), self.served, str(count)],
                           check=True, env=dict(stage.ENVIRON, PYTHONPATH=stage.PROJECT))
            shutil.copytree(self.served, self.grown)
            stage.measure(scene.store(self.grown, scene.image('one-more.img', 1 << 16), '99.0'))
            stage.measure(scene.installed + ['fetch', self.config])
            shutil.copytree(self.destination, self.before, symlinks=True)

    def cost(self, figure):
        """Measure one of MANIFEST_FIGURES once."""
        fetch = self.scene.installed + ['fetch', self.config]
        if figure == MANIFEST_FIGURES[0]:
            stage.measure(fetch)                # who has no ETag yet, gets one
        elif figure == MANIFEST_FIGURES[1]:
            manifest = os.path.join(self.destination, 'manifest')
            yesterday = os.stat(manifest).st_mtime - ONE_DAY_SECONDS
            os.utime(manifest, (yesterday, yesterday))
        elif figure == MANIFEST_FIGURES[2]:
            self._start_again(self.before, self.destination)
            fetch[-1] = self.config_of_grown
        else:
            self._start_again(self.served, self.scratch)
            return stage.measure(self.scene.store(self.scratch, self.scene.path('one-more.img'), '99.0'))
        cost = stage.measure(fetch)
        if figure == MANIFEST_FIGURES[2]:
            self._start_again(self.before, self.destination)
        return cost

    def once(self, figure):
        """The same as a function that returns seconds."""
        return lambda: self.cost(figure).seconds

    @staticmethod
    def _start_again(source, target):
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, symlinks=True)
        os.sync()


def manifests(scene):
    """From 10 entries to 100,000."""
    publications = [Publication(scene, count) for count in ENTRIES]
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
    head = ['entries', 'bytes'] + [figure + ', s' for figure in MANIFEST_FIGURES] + ['peak of fetch, MB', 'peak of store, MB']
    return [('Manifests', head, rows)]


def images(scene):
    """From 1 MiB to 4 GiB; the larger ones are mostly holes, which a download fills."""
    rows = []
    for size in (mib << 20 for mib in IMAGE_MIB):
        image = scene.path('growing.img')
        with open(image, 'wb') as stream:
            stream.truncate(size)
        costs = {'store': [], 'fetch': [], 'check': []}
        for _ in range(ROUNDS if size <= 1 << 28 else 1):
            scene.empty('served', 'growing')
            costs['store'].append(stage.measure(scene.store(scene.path('served', 'growing'), image, '1.0')))
            config = scene.client('growing', scene.url('growing'))
            scene.empty('client', 'growing')
            costs['fetch'].append(stage.measure(scene.installed + ['fetch', config]))
            costs['check'].append(stage.measure(scene.installed + ['fetch', config]))
        row = [size >> 20]
        for of in costs.values():
            seconds = min(cost.seconds for cost in of)
            row += ['{:.3f}'.format(seconds), '{:.2f}'.format(1e9 * seconds / size),
                    '{:.1f}'.format(max(cost.peak for cost in of) / MB)]
        rows.append(row)
    for name in ('served', 'client'):
        scene.empty(name, 'growing')
    os.unlink(image)
    head = ['MiB'] + [title for command in ('store', 'fetch', 'no-op fetch')
                      for title in (command + ', s', 'ns a byte', 'peak, MB')]
    return [('Images', head, rows)]


def configs(scene):
    """From 1 config to 50 in one run, all of one host: requests, connections, time."""
    rows = []
    for count in CONFIGS:
        row = [count]
        for server in ('logged', 'logged-tls'):
            paths = []
            for number in range(count):
                name = 'config-{}'.format(number)
                if not os.path.exists(scene.path('served', name)):
                    scene.publish(name, scene.image('one-more.img', 1 << 16))
                paths.append(scene.client('{}-{}'.format(name, server), scene.url(name, server)))
            fetch = scene.installed + ['fetch'] + paths
            stage.measure(fetch, scene.trust)
            logged = scene.requests(fetch, scene.trust)
            row += [len(logged), len({connection for connection, *_ in logged}),
                    '{:.1f}'.format(1e3 * min(stage.measure(fetch, scene.trust).seconds for _ in range(CONFIG_ROUNDS)))]
        rows.append(row)
    head = ['configs', 'http: requests', 'connections', 'ms', 'https: requests', 'handshakes', 'ms']
    return [('Configs in one run', head, rows)]
