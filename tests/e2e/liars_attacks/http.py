"""The ways to be wrong that RFC 9110 and RFC 9112 leave to a server. Each is tried on all that fetch asks for."""
import gzip
import zlib

import origin
from liars_attacks.attack import (ANY, LISTED, MIB, OTHER, SAME, UPDATED, answers, attack, body_of, on_image,
                                  on_index, on_manifest, ranged, says, with_length)

OK = b'HTTP/1.1 200 OK\r\n'
CHUNKED = OK + b'Transfer-Encoding: chunked\r\n\r\n'
EITHER = 0, 3, 75               # where a reader may make sense of it, or not: what is installed is right in any case


def in_chunks(change=lambda chunk: chunk, end=b'0\r\n\r\n', head=CHUNKED):
    """The honest body in chunks, each changed, and another end."""
    def body(handler):
        whole = body_of(handler)
        return b''.join(change(b'%x\r\n' % len(whole[at:at + 9000]) + whole[at:at + 9000] + b'\r\n')
                        for at in range(0, len(whole), 9000))
    return says(head, body, end)


def then(fault, stray):
    """An answer, and on the same connection another, for which nobody asked."""
    def both(handler):
        fault(handler)
        handler.wfile.write(stray)
    return both


def serves(handler):
    handler.answer(200, body_of(handler))


def bomb(size, compress):
    """So many bytes of nothing, compressed."""
    return compress(bytes(size))


STRAY = b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray'

# what comes just as the next request is sent is its answer, which a liar may give as well
STRAYS = [
    ('a stray answer after the right one', then(serves, STRAY), EITHER),
    ('a hundred stray answers', then(serves, STRAY * 100), EITHER),
    ('bytes after the end', then(serves, OTHER[:50000]), EITHER),
]

# name, fault, exit codes where it meets the manifest or the image
ANSWERS = [
    # lengths
    ('a length below zero', with_length(lambda size: '-1'), EITHER),
    ('a length of 2^80', with_length(lambda size: str(1 << 80)), EITHER),
    ('a length that is none', with_length(lambda size: 'many'), EITHER),
    ('a length with a sign', with_length(lambda size: '+{}'.format(size)), EITHER),
    ('a length in hex', with_length(hex), EITHER),
    ('a length of a thousand zeros', with_length(lambda size: '0' * 1000 + str(size)), EITHER),
    ('a length of five thousand digits', with_length(lambda size: '1' * 5000), EITHER),
    ('two lengths', with_length(lambda size: '{}\r\nContent-Length: 5'.format(size)), EITHER),
    ('a list of lengths', with_length(lambda size: '{0}, {0}'.format(size)), EITHER),
    ('a length of nothing', with_length(lambda size: '0'), (3, 75)),
    ('a length too short by one', with_length(lambda size: str(size - 1)), (3, 75)),
    ('a length too long by one', with_length(lambda size: str(size + 1)), (3, 75)),
    ('truncated half way', says(lambda handler: OK + b'Content-Length: %d\r\n\r\n' % len(body_of(handler)),
                                lambda handler: body_of(handler)[:len(body_of(handler)) // 2]), (3, 75)),
    ('truncated after the headers', says(lambda handler: OK + b'Content-Length: %d\r\n\r\n' % len(body_of(handler))), (3, 75)),
    ('truncated within the headers', says(OK + b'Content-Len'), (75,)),
    ('truncated without a length', says(OK + b'\r\n', lambda handler: body_of(handler)[:-20]), (3, 75)),
    # chunks
    ('chunks that never end', in_chunks(end=b''), (0, 75)),         # all of an image has come by then
    ('a chunk without its line end', in_chunks(lambda chunk: chunk[:-2]), EITHER),
    ('a chunk of a size that is none', says(CHUNKED, b'many\r\n', body_of), (75,)),
    ('a chunk of a size below zero', says(CHUNKED, b'-5\r\n', body_of), EITHER),
    ('a chunk of 2^80', says(CHUNKED, b'1' + b'0' * 20 + b'\r\n', body_of), EITHER),
    ('a chunk of five thousand digits', says(CHUNKED, b'1' * 5000 + b'\r\n', body_of), EITHER),
    ('a chunk of a size in 0x', in_chunks(lambda chunk: b'0x' + chunk), EITHER),
    ('a chunk size with an underscore', in_chunks(lambda chunk: chunk[:1] + b'_' + chunk[1:]), EITHER),
    ('a chunk extension without end', origin.floods(CHUNKED + b'5;', b'x' * 65536), (75,)),
    ('chunk extensions without end', origin.floods(CHUNKED, b'1;' + b'x' * 4000 + b'\r\nx\r\n'), (3, 75)),
    ('trailers without end', in_chunks(end=b'0\r\n' + b'X: ' + b'x' * 8000 * 1000), EITHER),
    ('many trailers without end', origin.floods(CHUNKED + b'0\r\n', b'X: x\r\n' * 1000), EITHER),
    ('chunks and a length', in_chunks(head=OK + b'Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n'), EITHER),
    ('a transfer encoding that is none', in_chunks(head=OK + b'Transfer-Encoding: gzip, chunked\r\n\r\n'), EITHER),
    ('chunks in HTTP/1.0', in_chunks(head=b'HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n'), EITHER),
    # compression
    ('compressed unasked', lambda handler: handler.answer(200, gzip.compress(body_of(handler)), [
        ('Content-Encoding', 'gzip')]), (75,)),
    ('a gzip bomb', origin.serves(bomb(64 * MIB, gzip.compress), [('Content-Encoding', 'gzip')]), (75,)),
    ('a deflate bomb', origin.serves(bomb(64 * MIB, zlib.compress), [('Content-Encoding', 'deflate')]), (75,)),
    ('a bomb that does not say so', origin.serves(bomb(64 * MIB, gzip.compress)), (3,)),
    ('an encoding of escape codes', origin.serves(b'x', [('Content-Encoding', '\x1b[2J\x1b]0;owned\x07')]), (75,)),
    ('an encoding of 60 KB', origin.serves(b'x', [('Content-Encoding', 'x' * 60000)]), (75,)),
    # statuses
    ('continue for ever', origin.floods(b'', b'HTTP/1.1 100 Continue\r\n\r\n'), (75,)),
    ('continue with headers for ever', origin.floods(b'', b'HTTP/1.1 100 Continue\r\nX: ' + b'x' * 1000 + b'\r\n\r\n'), (75,)),
    ('early hints for ever', origin.floods(b'', b'HTTP/1.1 103 Early Hints\r\n\r\n'), (75,)),
    ('switching protocols', says(b'HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\n\r\n', b'PRI * HTTP/2.0\r\n\r\n' * 1000), (75,)),
    ('a status of three letters', answers(b'abc OK\nContent-Length: 0'), (75,)),
    ('a status of 0', answers(b'000 OK\nContent-Length: 0'), (75,)),
    ('a status of 99999', answers(b'99999 OK\nContent-Length: 0'), (75,)),
    ('a status of 2^4000', answers(b'2' * 1200 + b' OK\nContent-Length: 0'), (75,)),
    ('an empty status line', says(b'\r\n' * 100000), (75,)),
    ('HTTP/0.9', says(body_of), (75,)),
    ('HTTP/2', says(b'HTTP/2.0 200 OK\r\n\r\n', body_of), EITHER),
    ('shoutcast', says(b'ICY 200 OK\r\n\r\n', body_of), (75,)),
    ('ssh', says(b'SSH-2.0-OpenSSH_9.2\r\n'), (75,)),
    ('an alert of TLS', says(b'\x15\x03\x03\x00\x02\x02\x28'), (75,)),
    ('noise', says(OTHER[:100000]), (75,)),
    ('zeros', says(bytes(1000000)), (75,)),
    ('a line feed for ever', origin.floods(b'', b'\n' * 65536), (75,)),
    ('a reason of escape codes', answers(b'500 \x1b[2J\x1b]0;owned\x07\nContent-Length: 0'), (75,)),
] + [('status {}'.format(code), says(b'HTTP/1.1 %d Odd\r\nContent-Length: 3\r\n\r\nno\n' % code), (75,))
     for code in (201, 202, 203, 204, 205, 206, 226, 300, 304, 305, 306, 400, 402, 406, 412, 416, 421, 451, 505, 511,
                  600, 999)] + [
    # headers
    ('a header of a megabyte', answers(b'200 OK\nX: ' + b'x' * MIB), (75,)),
    ('ten thousand headers', answers(b'200 OK\n' + b'\n'.join(b'X-%d: x' % number for number in range(10000))), (75,)),
    ('headers without end', origin.floods(OK, b'X: x\r\n' * 1000), (75,)),
    ('a header without end', origin.floods(OK + b'X: ', b'x' * 65536), (75,)),
    ('folded headers without end', origin.floods(OK + b'X: x\r\n', b' folded\r\n' * 1000), (75,)),
    ('a header without a colon', answers(b'200 OK\nno colon'), EITHER),
    ('a header of zeros', answers(b'200 OK\nX: \0\0\0'), EITHER),
    ('a header of no text', answers(b'200 OK\nX: \xff\xfe\x80'), EITHER),
    ('a space before the colon', answers(b'200 OK\nContent-Length : 5'), EITHER),
    ('an ETag of a megabyte', lambda handler: handler.answer(200, body_of(handler), [('ETag', '"' + 'x' * 60000 + '"')]), EITHER),
    ('an ETag with a line end', says(b'HTTP/1.1 200 OK\r\nETag: "a\rX: y"\r\n\r\n', body_of), EITHER),
    # redirects
    ('a redirect to itself', lambda handler: origin.redirects(handler.path)(handler), (75,)),
    ('a redirect that grows', lambda handler: origin.redirects(handler.path + '/x' * 100)(handler), (75,)),
    ('a redirect to nowhere', origin.status(302, b''), (75,)),
    ('a redirect to a file', origin.redirects('file:///etc/passwd'), (75,)),
    ('a redirect to ftp', origin.redirects('ftp://127.0.0.1/'), (75,)),
    ('a redirect to data', origin.redirects('data:,x'), (75,)),
    ('a redirect to where nobody listens', origin.redirects('http://127.0.0.1:1/'), (75,)),
    ('a redirect to TLS that is none', lambda handler: origin.redirects(
        'https://127.0.0.1:{}/'.format(handler.server.server_address[1]))(handler), (75,)),
    ('a redirect to half an address', origin.redirects('http://[::1'), (75,)),
    ('a redirect to a port that is none', origin.redirects('http://127.0.0.1:99999/'), (75,)),
    ('a redirect of 60 KB', origin.redirects('/' + 'x' * 60000), (75,)),
    ('a redirect with a line end in it', origin.redirects('/x%0d%0aX: y'), (75,)),
    ('a redirect of zeros and escapes', says(b'HTTP/1.1 302 Found\r\nLocation: http://\x00\x1b[2J/\xff\r\n\r\n'), (75,)),
    ('a redirect to a user of many', origin.redirects('http://' + 'a@' * 1000 + 'x/'), (75,)),
    # connections
    *STRAYS,
    ('no word', origin.hangs_up, (75,)),
]


def met_by(what, on, codes, state):
    """The table, where each meets what is asked for."""
    for name, fault, those in ANSWERS:
        if name == 'status 304' and what == 'manifest':     # which may be true, as the tables of freezes have it
            continue
        is_stray = fault in [each for _, each, _ in STRAYS]
        yield attack('{}: {}'.format(what, name), on(fault), those if codes is None or is_stray else codes,
                     ANY if is_stray else state, seconds=30,
                     memory=60 * MIB if what == 'manifest' else 12 * MIB, beside=0 if what == 'manifest' else None)


def half_of(answer):
    """What is answered to who has half of an image and asks for the rest; all others are told the truth."""
    return ranged(lambda handler, ranges: answer(handler.body, ranges[0][0]))


def content_range(begin, end, size):
    return [('Content-Range', 'bytes {}-{}/{}'.format(begin, end, size))]


RESUMED = [attack('rest: ' + name, on_image(half_of(answer)), codes, UPDATED if codes == 0 else LISTED, start='half',
                  options=('--no-delta',))
           for name, answer, codes in (
    ('another range', lambda body, at: (206, body[at - 1:], content_range(at - 1, len(body) - 1, len(body))), 0),
    ('a range that is not there', lambda body, at: (206, body[at:], content_range(len(body), 2 * len(body), len(body))), 0),
    ('a range that begins after its end', lambda body, at: (206, body[at:], content_range(len(body) - 1, at, len(body))), 0),
    ('a range of 2^80', lambda body, at: (206, body[at:], content_range(1 << 80, 1 << 81, 1 << 82)), 0),
    ('a range of unknown size', lambda body, at: (206, body[at:], [('Content-Range', 'bytes {}-{}/*'.format(
        at, len(body) - 1))]), 0),
    ('no range', lambda body, at: (206, body[at:], []), 0),
    ('other bytes', lambda body, at: (206, OTHER[at:], content_range(at, len(body) - 1, len(body))), 0),
    ('fewer bytes', lambda body, at: (206, body[at:-1], content_range(at, len(body) - 1, len(body))), 0),
    ('more bytes', lambda body, at: (206, body[at:] + b'x' * 100000, content_range(at, len(body) - 1, len(body))), 0),
    ('parts', lambda body, at: origin.in_ranges([(at, at + 5), (at + 5, len(body))], body), 0),
    ('not satisfiable', lambda body, at: (416, b'', [('Content-Range', 'bytes */5')]), 0),
    ('unchanged', lambda body, at: (304, b'', []), 75),
    ('all of it', lambda body, at: (200, body, []), 0),
    ('all of another', lambda body, at: (200, OTHER, []), 0),        # once more, from zero, that is answered rightly
    ('nothing', lambda body, at: (206, b'', content_range(at, len(body) - 1, len(body))), 0),
)]

GROUPS = {
    'HTTP, manifest': list(met_by('manifest', on_manifest, None, SAME)),
    'HTTP, image': list(met_by('image', on_image, None, LISTED)),
    'HTTP, index': list(met_by('index', on_index, 0, UPDATED)),
    'HTTP, rest of an image': RESUMED,
}
