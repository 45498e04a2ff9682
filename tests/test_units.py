"""Section 11: restarting units, with a systemctl of our own on the PATH."""
import os
import unittest.mock

import scene
import tako


class RestartTest(scene.Scene):
    def systemctl(self, script):
        os.makedirs(self.path('bin'), exist_ok=True)
        self.write('bin/systemctl', '#!/bin/sh\n' + script, 0o755)
        patch = unittest.mock.patch.dict(os.environ, PATH=self.path('bin') + ':/usr/bin:/bin')
        patch.start()
        self.addCleanup(patch.stop)

    def test_all_units_in_one_call_that_no_name_can_bend(self):
        self.systemctl('printf "%s\\n" "$@" > {}'.format(self.path('called')))
        tako.restart_units(['app.service', 'other@1.service'])
        with open(self.path('called')) as stream:
            self.assertEqual('restart\n--\napp.service\nother@1.service\n', stream.read())

    def test_a_unit_that_does_not_start_is_named_with_what_systemctl_said(self):
        self.systemctl('echo "Job for app.service failed."; echo "See journalctl." >&2; exit 5')
        with self.assertRaises(tako.TakoError) as caught:
            tako.restart_units(['app.service'])
        error = caught.exception
        self.assertEqual(1, error.exit_code)
        self.assertIn('app.service: exit code 5: Job for app.service failed.; See journalctl.', error.what)
        self.assertIn('journalctl -u app.service', error.hint)

    def test_a_machine_without_systemd(self):
        with unittest.mock.patch.dict(os.environ, PATH=self.path('nothing')):
            with self.assertRaises(tako.TakoError) as caught:
                tako.restart_units(['app.service'])
        self.assertIn('no systemctl', caught.exception.what)
