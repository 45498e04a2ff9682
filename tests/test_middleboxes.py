"""Sections 12, 16 and 17: gateways, proxies and caches before an honest origin."""
import time

import origin
import scene
from scene import HERE, IMAGE, noise


def fails_over_range(fault):
    """Answer requests with Range by this fault, others honestly."""
    return lambda handler: fault(handler) if handler.headers.get('Range') else handler.serve()


class RangelessGatewayTest(scene.ResumeScene):
    """A gateway that fails requests with Range, after a download broke off."""

    def test_an_image_refused_with_range_is_requested_once_without(self):
        rest = 'bytes={}-'.format(HERE)
        cases = [(code, origin.status(code), [rest, None])
                 for code in (400, 403, 404, 405, 412, 500, 501, 503)]
        # A kept connection may have ended, so fetch tries a new one first.
        cases += [('hangs up', origin.hangs_up, [rest, rest, None]),
                  ('no HTTP', origin.talks_nonsense, [rest, rest, None])]
        for name, fault, ranges in cases:
            with self.subTest(name):
                self.anew()
                self.left_behind(IMAGE[:HERE])
                self.origin.faults[self.image] = fails_over_range(fault)
                self.assertFetched(ranges)

    def test_an_image_refused_with_range_is_requested_without_for_the_whole_run(self):
        times = [origin.drops(HERE)] * 3

        def fault(handler):
            if handler.headers.get('Range'):
                handler.answer(403, b'')
            elif times:
                times.pop()(handler)
            else:
                handler.serve()
        self.origin.faults[self.image] = fault
        result = self.run_here('fetch', self.app, limits={'PAUSE_BUDGET_SECONDS': 1.0})
        self.assertCode(0, result)
        self.assertInPlace(IMAGE)
        self.assertEqual([None, 'bytes={}-'.format(HERE), None, None, None],
                         self.origin.asked(self.image, 'Range'))

    def test_a_withdrawn_image_is_not_requested_again(self):
        self.left_behind(IMAGE[:HERE])
        self.origin.faults[self.image] = origin.status(410)
        self.assertCode(75, self.run_here('fetch', self.app))
        self.assertEqual(1, len(self.origin.asked(self.image, 'Range')))

    def test_a_partial_image_stays_if_the_request_without_range_fails(self):
        self.left_behind(IMAGE[:HERE])
        self.origin.faults[self.image] = origin.status(500)
        self.assertCode(75, self.run_here('fetch', self.app))
        self.assertEqual(IMAGE[:HERE], scene.read(self.partial))
        self.assertEqual(1, self.origin.asked(self.image, 'Range').count(None))


class CacheTest(scene.ResumeScene):
    """A cache between the client and an honest origin."""

    def damaged_for(self, copy):
        """Return the fault of a cache with a damaged copy, which no-cache avoids."""
        def fault(handler):
            if handler.headers.get('Cache-Control') == 'no-cache':
                handler.serve()
            else:
                handler.answer(200, copy)
        return fault

    def test_a_damaged_copy_of_an_image_is_passed_over(self):
        for copy in (b'x' * len(IMAGE), IMAGE[:-1], IMAGE + b'x', b''):
            with self.subTest(len(copy)):
                self.anew()
                self.origin.faults[self.image] = self.damaged_for(copy)
                self.assertFetched([None, None])
                self.assertEqual([None, 'no-cache'], self.origin.asked(self.image, 'Cache-Control'))

    def test_an_image_damaged_at_the_origin_is_refused_after_a_request_without_cache(self):
        self.origin.faults[self.image] = origin.serves(b'x' * len(IMAGE))
        self.assertCode(3, self.run_here('fetch', self.app))
        self.assertEqual([None, 'no-cache'], self.origin.asked(self.image, 'Cache-Control'))

    def test_a_manifest_is_not_accepted_from_a_cache_without_validation(self):
        old = scene.read(self.origin.directory + '/manifest')
        self.assertCode(0, self.run_here('fetch', self.app))
        self.origin.publish('1.1', IMAGE[::-1])
        self.origin.faults['/manifest'] = self.damaged_for(old)
        self.assertCode(0, self.run_here('fetch', self.app))
        self.assertInPlace(IMAGE[::-1])

    def test_an_index_is_not_accepted_from_a_cache_without_validation(self):
        self.origin.index(self.entry)
        self.assertCode(0, self.run_here('fetch', self.app))
        self.assertEqual({'no-cache'},
                         set(self.origin.asked(self.image + '.chunks', 'Cache-Control')))


class CutManifestTest(scene.ResumeScene):
    """A manifest without a length ends with the connection, which ends too early."""

    def cut(self, size):
        content = scene.read(self.origin.directory + '/manifest')[:size]

        def fault(handler):
            handler.wfile.write(b'HTTP/1.0 200 OK\r\n\r\n' + content)
            handler.hang_up()
        return fault

    def test_a_truncated_manifest_is_requested_again(self):
        for size in (0, 1, 17, 18, 100, -1):
            with self.subTest(size):
                self.anew()
                self.origin.faults['/manifest'] = origin.first(1, self.cut(size))
                result = self.run_here('fetch', self.app, limits={'PAUSE_BUDGET_SECONDS': 1.0})
                self.assertCode(0, result)

    def test_an_error_of_a_truncated_manifest_names_the_cause(self):
        self.origin.faults['/manifest'] = self.cut(100)
        result = self.run_here('fetch', self.app)
        self.assertCode(75, result)
        self.assertIn('the connection may have ended early', result.err)

    def test_a_page_in_place_of_the_manifest_is_refused(self):
        page = b'HTTP/1.0 200 OK\r\n\r\n<html>log in</html>'

        def fault(handler):
            handler.wfile.write(page)
            handler.hang_up()
        self.origin.faults['/manifest'] = fault
        self.assertCode(3, self.run_here('fetch', self.app))


class ScanningProxyTest(scene.ResumeScene):
    """A proxy that holds a body back until it has scanned the whole."""

    limits = {'PAUSE_FIRST_SECONDS': 0.001, 'PAUSE_BUDGET_SECONDS': 0.02,
              'NETWORK_TIMEOUT_SECONDS': 0.2}

    def setUp(self):
        super().setUp()

        def fault(handler):
            time.sleep(0.6)
            handler.serve()
        self.origin.faults[self.image] = fault

    def test_a_proxy_that_holds_the_body_back_times_out(self):
        result = self.run_here('fetch', self.app)
        self.assertCode(75, result)
        self.assertIn('timed out', result.err)

    def test_stall_lets_fetch_wait_for_a_scanning_proxy(self):
        self.assertCode(0, self.run_here('fetch', '--stall', '5', self.app))
        self.assertInPlace(IMAGE)

    def test_a_stall_longer_than_the_system_can_wait_works(self):
        self.assertCode(0, self.run_here('fetch', '--stall', '999999999', self.app))

    def test_an_invalid_stall_is_a_usage_error(self):
        self.assertCode(2, self.run_here('fetch', '--stall', 'x', self.app))


class RateLimitTest(scene.Scene):
    """A rate limit, like limit_req of nginx without burst: a request that is too soon gets 503."""

    limits = {'PAUSE_FIRST_SECONDS': 0.06, 'PAUSE_BUDGET_SECONDS': 3.0}
    EVERY_SECONDS = 0.05

    def test_an_update_past_a_rate_limit_prints_at_most_one_warning(self):
        server = self.serve()
        server.has_ranges = True
        app = self.config(server.url)
        old = noise(600000)
        server.publish('1.0', old)
        self.assertCode(0, self.run_here('fetch', app))
        new = b''.join(old[at:at + 30000] + noise(300, at) for at in range(0, len(old), 30000))
        server.index(server.publish('1.1', new))
        last = [0.0]

        def limited(handler):
            now, before = time.monotonic(), last[0]
            last[0] = max(before, now)
            if now - before < self.EVERY_SECONDS:
                last[0] = before
                handler.answer(503, b'')
            else:
                handler.serve()
        server.faults['*'] = limited
        result = self.run_here('fetch', app)
        self.assertCode(0, result)
        self.assertInPlace(new)
        self.assertLessEqual(result.err.count('downloading the whole image'), 1, result)


class ReportedElsewhereTest(scene.ResumeScene):
    """Situations from the public issues of curl, apt, containerd and RAUC."""

    def test_a_range_of_unknown_total_size_is_accepted(self):
        """RFC 9110, 14.4."""
        def fault(handler):
            begin = int(handler.headers['Range'][6:-1])
            handler.answer(206, IMAGE[begin:],
                           [('Content-Range', 'bytes {}-{}/*'.format(begin, len(IMAGE) - 1))])
        self.left_behind(IMAGE[:HERE])
        self.origin.faults[self.image] = fault
        self.assertFetched(['bytes={}-'.format(HERE)])

    def test_the_page_of_a_416_is_not_appended(self):
        self.left_behind(IMAGE[:HERE])
        self.origin.faults[self.image] = fails_over_range(
            origin.status(416, b'<html>', [('Content-Range', 'bytes */{}'.format(len(IMAGE)))]))
        self.assertFetched(['bytes={}-'.format(HERE), None])

    def test_an_expired_redirect_is_not_followed_again(self):
        """For example, the storage of a registry signs its URLs for a short time."""
        tickets = iter('abc')

        def redirect(handler):
            handler.answer(302, b'', [('Location', '/signed?' + next(tickets))])

        def fault(handler):
            ticket = handler.path[-1]
            if ticket in used:
                handler.answer(400, b'expired')
            else:
                used.add(ticket)
                handler.path = self.image
                handler.serve(HERE if ticket == 'a' else None)
        used = set()
        self.origin.faults[self.image] = redirect
        for ticket in 'abc':
            self.origin.faults['/signed?' + ticket] = fault
        self.assertCode(0, self.run_here('fetch', self.app, limits={'PAUSE_BUDGET_SECONDS': 1.0}))
        self.assertInPlace(IMAGE)
        self.assertEqual({'a', 'b'}, used)

    def test_an_error_names_the_login_page_of_a_network(self):
        self.origin.faults['/manifest'] = origin.serves(b'<html>log in</html>')
        result = self.run_here('fetch', self.app)
        self.assertCode(3, result)
        self.assertIn('login page', result.err)

    def test_an_offered_upgrade_of_the_protocol_is_ignored(self):
        """For example, Apache offers h2 in responses of HTTP/1.1."""
        offer = [('Upgrade', 'h2,h2c'), ('Connection', 'Upgrade, Keep-Alive')]
        self.origin.faults[self.image] = origin.status(200, IMAGE, offer)
        self.assertFetched([None])
        self.assertEqual(1, self.origin.connections)

    def test_a_network_login_is_a_temporary_error(self):
        """RFC 6585, 6."""
        self.origin.faults['/manifest'] = origin.status(511)
        self.assertCode(75, self.run_here('fetch', self.app))


class BusyIndexTest(scene.Scene):
    """An origin that has the image, and answers 503 for its index for an hour."""

    def test_the_whole_image_is_downloaded_if_the_index_is_busy(self):
        server = self.serve()
        server.has_ranges = True
        app, old = self.config(server.url), noise(600000)
        server.publish('1.0', old)
        self.assertCode(0, self.run_here('fetch', app))
        new = server.publish('1.1', old + b'x')
        server.index(new)
        server.faults['/store/{}.chunks'.format(new.digest)] = origin.status(
            503, headers=[('Retry-After', '3600')])
        self.assertCode(0, self.run_here('fetch', app))
        self.assertInPlace(old + b'x')
