"""Section 13: restarting units, with a systemctl of our own on the PATH."""
import os
import unittest.mock

import scene
import tako


class UnitsCase(scene.Scene):
    def systemctl(self, script):
        """Put a systemctl on the PATH; it notes how it is called."""
        os.makedirs(self.path('bin'), exist_ok=True)
        self.write('bin/systemctl', '#!/bin/sh\necho "$@" >> {}\n{}\n'.format(self.path('called'), script), 0o755)
        patch = unittest.mock.patch.dict(os.environ, PATH=self.path('bin') + ':/usr/bin:/bin')
        patch.start()
        self.addCleanup(patch.stop)

    def called(self):
        with open(self.path('called')) as stream:
            return stream.read().splitlines()

    def failure(self, *units, confirm_seconds=0):
        with self.assertRaises(tako.UnitError) as caught:
            tako.restart_units(units, confirm_seconds)
        self.assertEqual(1, caught.exception.exit_code)
        return caught.exception


class RestartTest(UnitsCase):
    def test_all_units_in_one_call_that_no_name_can_bend(self):
        self.systemctl('exit 0')
        tako.restart_units(['app.service', 'other@1.service'], 0)
        self.assertEqual(['restart -- app.service other@1.service'], self.called())

    def test_the_unit_that_did_not_start_is_named_with_its_state_and_where_to_look(self):
        self.systemctl('case "$*" in restart*) echo "Job failed."; exit 5;; *app*) echo failed; exit 3;; esac; echo active')
        error = self.failure('web.service', 'app.service')
        self.assertEqual('app.service is failed (systemctl restart: exit code 5: Job failed.)', error.what)
        self.assertEqual('see: journalctl -u app.service', error.hint)

    def test_a_restart_that_fails_though_all_are_active(self):
        self.systemctl('case "$*" in restart*) echo one; echo two; exit 1;; esac; echo active')
        self.assertEqual('cannot restart app.service (systemctl restart: exit code 1: one; two)',
                         self.failure('app.service').what)

    def test_one_that_hangs_has_failed(self):
        self.systemctl('case "$1" in restart) exec sleep 60;; esac; echo activating; exit 3')
        with unittest.mock.patch.object(tako, 'SYSTEMCTL_TIMEOUT_SECONDS', 0.3):
            self.assertIn('app.service is activating (systemctl restart: exit code 124: no answer',
                          self.failure('app.service').what)

    def test_a_systemctl_that_went_away(self):
        with unittest.mock.patch.dict(os.environ, PATH=self.path('nothing')):
            with self.assertRaises(tako.TakoError) as caught:
                tako.restart_units(['app.service'], 0)
        self.assertNotIsInstance(caught.exception, tako.UnitError)      # which would be the image's fault
        self.assertIn('exit code 127', caught.exception.what)


class ConfirmTest(UnitsCase):
    def test_active_units_are_confirmed(self):
        self.systemctl('echo active')
        tako.restart_units(['app.service', 'web.service'], 0.01)
        self.assertEqual(['restart -- app.service web.service', 'is-active -- app.service', 'is-active -- web.service'],
                         self.called())

    def test_a_unit_that_died_later_is_named(self):
        self.systemctl('case "$*" in is-active*web*) echo failed; exit 3;; esac; echo active')
        error = self.failure('app.service', 'web.service', confirm_seconds=0.01)
        self.assertIn('web.service is failed 0.01 seconds after its restart', error.what)
        self.assertNotIn('app.service', error.what + error.hint)


class RequireTest(scene.Scene):
    def test_a_systemctl_somewhere_on_the_path(self):
        os.mkdir(self.path('bin'))
        self.write('bin/systemctl', '#!/bin/sh\n', 0o755)
        self.assertIsNone(tako.require_systemctl({'PATH': '/nowhere:' + self.path('bin')}))

    def test_none_or_one_that_cannot_run(self):
        os.mkdir(self.path('bin'))
        self.write('bin/systemctl', '#!/bin/sh\n', 0o644)
        for path in ('', '/nowhere', self.path('bin')):
            with self.subTest(path), self.assertRaises(tako.UnitError):
                tako.require_systemctl({'PATH': path})
