"""Responses that break RFC 9110 and RFC 9112, each to all that fetch requests."""
import functools
import gzip
import zlib

import origin
from attacks.attack import (
    ANY, HALF, LISTED, MIB, NEW, OTHER, SAME, UPDATED, answers, attack, body_of, on_image, on_index,
    on_manifest, quick, says, with_length)

OK = b'HTTP/1.1 200 OK\r\n'
CHUNKED = OK + b'Transfer-Encoding: chunked\r\n\r\n'
CONTINUE = b'HTTP/1.1 100 Continue\r\n\r\n'
# fetch may understand the response or not; in any case it installs only the right image
EITHER = 0, 3, 75


def in_chunks(change=lambda chunk: chunk, end=b'0\r\n\r\n', head=CHUNKED):
    """Send the honest body in chunks, with each chunk or the end changed."""
    def body(handler):
        whole = body_of(handler)
        return b''.join(change(b'%x\r\n' % len(whole[at:at + 9000]) + whole[at:at + 9000] + b'\r\n')
                        for at in range(0, len(whole), 9000))
    return says(head, body, end)


def then(fault, stray):
    """Send a response, and on the same connection bytes that nobody requested."""
    def both(handler):
        fault(handler)
        handler.wfile.write(stray)
    return both


def serves(handler):
    """Send the honest body."""
    handler.answer(200, body_of(handler))


def bomb(compress, *headers):
    """Send 64 MiB of zeros, compressed."""
    made = functools.lru_cache(None)(lambda: compress(bytes(64 * MIB)))
    return lambda handler: handler.answer(200, made(), headers)


STRAY = b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray'

# If these bytes arrive while fetch sends the next request, they are the response to it.
STRAYS = {
    'a stray answer after the right one': then(serves, STRAY),
    'a hundred stray answers': then(serves, STRAY * 100),
    'bytes after the end': then(serves, OTHER[:50000]),
}

# headers and chunks without end, sent fast
FRAMING = {name: origin.floods(head, piece) for name, head, piece in (
    ('a status line without end', b'HTTP/1.1 200 ', b'x' * 65536),
    ('a header without end', OK + b'X: ', b'x' * 65536),
    ('long headers without end', OK, b'X: ' + b'y' * 60000 + b'\r\n'),
    ('continue for ever', b'', CONTINUE * 1000),
    ('continue with long headers for ever', b'',
     CONTINUE[:-2] + (b'X: ' + b'y' * 50000 + b'\r\n') * 90 + b'\r\n'),
    ('long chunk extensions without end', CHUNKED, (b'1;' + b'x' * 30000 + b'\r\nx\r\n') * 10),
    ('a chunk extension without end', CHUNKED + b'1;', b'x' * 65536),
    ('zeros of a chunk size without end', CHUNKED, b'0' * 65536),
    ('long trailers without end', CHUNKED + b'1\r\nx\r\n0\r\n', b'X: ' + b'y' * 60000 + b'\r\n'),
)}

# name, fault, exit codes if it answers a request for the manifest or the image
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
    ('truncated half way',
     says(lambda handler: OK + b'Content-Length: %d\r\n\r\n' % len(body_of(handler)),
          lambda handler: body_of(handler)[:len(body_of(handler)) // 2]), (3, 75)),
    ('truncated after 50 bytes', origin.cuts(50), (75,)),
    ('truncated after the headers',
     says(lambda handler: OK + b'Content-Length: %d\r\n\r\n' % len(body_of(handler))), (3, 75)),
    ('truncated within the headers', says(OK + b'Content-Len'), (75,)),
    ('truncated without a length', says(OK + b'\r\n', lambda handler: body_of(handler)[:-20]),
     (3, 75)),
    # chunks
    # The whole image has arrived by then.
    ('chunks that never end', in_chunks(end=b''), (0, 75)),
    ('a chunk without its line end', in_chunks(lambda chunk: chunk[:-2]), EITHER),
    ('a chunk of a size that is none', says(CHUNKED, b'many\r\n', body_of), (75,)),
    ('a chunk of a size below zero', says(CHUNKED, b'-5\r\n', body_of), EITHER),
    ('a chunk of 2^80', says(CHUNKED, b'1' + b'0' * 20 + b'\r\n', body_of), EITHER),
    ('a chunk of five thousand digits', says(CHUNKED, b'1' * 5000 + b'\r\n', body_of), EITHER),
    ('a chunk of a size in 0x', in_chunks(lambda chunk: b'0x' + chunk), EITHER),
    ('a chunk size with an underscore', in_chunks(lambda chunk: chunk[:1] + b'_' + chunk[1:]),
     EITHER),
    ('chunk extensions without end', origin.floods(CHUNKED, b'1;' + b'x' * 4000 + b'\r\nx\r\n'),
     (3, 75)),
    ('trailers without end', in_chunks(end=b'0\r\n' + b'X: ' + b'x' * 8000 * 1000), EITHER),
    ('many trailers without end', origin.floods(CHUNKED + b'0\r\n', b'X: x\r\n' * 1000), EITHER),
    ('chunks and a length',
     in_chunks(head=OK + b'Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n'), EITHER),
    ('a transfer encoding that is none',
     in_chunks(head=OK + b'Transfer-Encoding: gzip, chunked\r\n\r\n'), EITHER),
    ('chunks in HTTP/1.0', in_chunks(head=b'HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n'),
     EITHER),
    # compression
    ('compressed unasked', lambda handler: handler.answer(200, gzip.compress(body_of(handler)), [
        ('Content-Encoding', 'gzip')]), (75,)),
    ('said to be compressed', lambda handler: handler.answer(200, body_of(handler), [
        ('Content-Encoding', 'gzip')]), (75,)),
    ('a gzip bomb', bomb(gzip.compress, ('Content-Encoding', 'gzip')), (75,)),
    ('a deflate bomb', bomb(zlib.compress, ('Content-Encoding', 'deflate')), (75,)),
    ('a bomb that does not say so', bomb(gzip.compress), (3,)),
    ('an encoding of escape codes',
     origin.serves(b'x', [('Content-Encoding', '\x1b[2J\x1b]0;owned\x07')]), (3,)),
    ('an encoding of 60 KB', origin.serves(b'x', [('Content-Encoding', 'x' * 60000)]), (3,)),
    # statuses
    ('continue with headers for ever',
     origin.floods(b'', b'HTTP/1.1 100 Continue\r\nX: ' + b'x' * 1000 + b'\r\n\r\n'), (75,)),
    ('early hints for ever', origin.floods(b'', b'HTTP/1.1 103 Early Hints\r\n\r\n'), (75,)),
    ('switching protocols', says(b'HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\n\r\n',
                                 b'PRI * HTTP/2.0\r\n\r\n' * 1000), (75,)),
    ('a status of three letters', answers(b'abc OK\nContent-Length: 0'), (75,)),
    ('a status of 0', answers(b'000 OK\nContent-Length: 0'), (75,)),
    ('a status of 99999', answers(b'99999 OK\nContent-Length: 0'), (75,)),
    ('a status of 2^4000', answers(b'2' * 1200 + b' OK\nContent-Length: 0'), (75,)),
    ('an empty status line', says(b'\r\n' * 100000), (75,)),
    ('HTTP/0.9', says(body_of), (75,)),
    ('HTTP/2', says(b'HTTP/2.0 200 OK\r\n\r\n', body_of), EITHER),
    ('shoutcast', says(b'ICY 200 OK\r\n\r\n', body_of), (75,)),
    ('mail', origin.talks_nonsense, (75,)),
    ('ssh', says(b'SSH-2.0-OpenSSH_9.2\r\n'), (75,)),
    ('an alert of TLS', says(b'\x15\x03\x03\x00\x02\x02\x28'), (75,)),
    ('noise', says(OTHER[:100000]), (75,)),
    ('zeros', says(bytes(1000000)), (75,)),
    ('a line feed for ever', origin.floods(b'', b'\n' * 65536), (75,)),
    ('a reason of escape codes', answers(b'500 \x1b[2J\x1b]0;owned\x07\nContent-Length: 0'), (75,)),
] + [('status {}'.format(code), says(b'HTTP/1.1 %d Odd\r\nContent-Length: 3\r\n\r\nno\n' % code),
      (3 if code == 203 else 75,))
     for code in (201, 202, 203, 204, 205, 206, 226, 300, 304, 305, 306, 400, 402, 403, 404, 406,
                  410, 412, 416, 421, 451, 500, 503, 505, 511, 600, 999)] + [
    ('busy for an hour', origin.status(503, headers=[('Retry-After', '3600')]), (75,)),
    # headers
    ('a header of a megabyte', answers(b'200 OK\nX: ' + b'x' * MIB), (0, 75)),
    ('ten thousand headers',
     answers(b'200 OK\n' + b'\n'.join(b'X-%d: x' % number for number in range(10000))), (0, 75)),
    ('headers without end', origin.floods(OK, b'X: x\r\n' * 1000), (75,)),
    ('folded headers without end', origin.floods(OK + b'X: x\r\n', b' folded\r\n' * 1000), (75,)),
    ('a header without a colon', answers(b'200 OK\nno colon'), EITHER),
    ('a header of zeros', answers(b'200 OK\nX: \0\0\0'), EITHER),
    ('a header of no text', answers(b'200 OK\nX: \xff\xfe\x80'), EITHER),
    ('a space before the colon', answers(b'200 OK\nContent-Length : 5'), EITHER),
    ('an ETag of a megabyte', lambda handler: handler.answer(
        200, body_of(handler), [('ETag', '"' + 'x' * 60000 + '"')]), EITHER),
    ('an ETag with a line end', says(b'HTTP/1.1 200 OK\r\nETag: "a\rX: y"\r\n\r\n', body_of),
     EITHER),
    ('the whole as a 206 that nobody asked for',
     lambda handler: handler.answer(206, body_of(handler)), (75,)),
    # redirects
    ('a redirect to itself', lambda handler: origin.redirects(handler.path)(handler), (75,)),
    ('a redirect that grows', lambda handler: origin.redirects(handler.path + '/x' * 100)(handler),
     (75,)),
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
    ('a redirect of zeros and escapes',
     says(b'HTTP/1.1 302 Found\r\nLocation: http://\x00\x1b[2J/\xff\r\n\r\n'), (75,)),
    ('a redirect to a user of many', origin.redirects('http://' + 'a@' * 1000 + 'x/'), (75,)),
    # connections
    *[(name, fault, EITHER) for name, fault in STRAYS.items()],
    *[(name, fault, (75,)) for name, fault in FRAMING.items()],
    ('no word', origin.hangs_up, (75,)),
]


# After these fetch blames the URL to which it was led.
LEADS_AWAY = {
    'a redirect to where nobody listens', 'a redirect to a user of many',
    'a redirect to TLS that is none', 'a redirect that grows', 'a redirect of 60 KB',
    'a redirect with a line end in it'}

# `make check` runs these, beside FRAMING,
QUICK = {
    'truncated after 50 bytes', 'truncated half way', 'said to be compressed', 'compressed unasked',
    'mail', 'no word', 'noise', 'status 304', 'status 403', 'status 404', 'status 410',
    'status 500', 'status 503', 'busy for an hour', 'the whole as a 206 that nobody asked for',
    'a redirect to itself', 'a redirect to a file'}
# and these for the index, with what fetch says before it downloads the whole image.
QUICK_INDEXES = {'status 403': '403', 'status 500': '500', 'no word': ()}


def on_manifests():
    """Yield the attacks of the table, each on the manifest."""
    for name, fault, codes in ANSWERS:
        if name == 'status 304':            # it may be true; see indefinite freeze
            continue
        yield attack('manifest: ' + name, on_manifest(fault), codes,
                     ANY if name in STRAYS else SAME, seconds=30, memory=60 * MIB,
                     is_quick=name in QUICK or name in FRAMING, **where_blamed(name))


def on_images():
    """Yield the attacks of the table, each on the image."""
    for name, fault, codes in ANSWERS:
        if name == 'status 410':            # a withdrawal; see indefinite freeze
            continue
        yield attack('image: ' + name, on_image(fault), codes, ANY if name in STRAYS else LISTED,
                     seconds=30, beside=0 if name in QUICK else None, is_quick=name in QUICK,
                     **where_blamed(name))


def on_indexes():
    """Yield the attacks of the table, each on the index."""
    for name, fault, codes in ANSWERS:
        is_stray, is_quick = name in STRAYS, name in QUICK_INDEXES
        yield attack('index: ' + name, on_index(fault), codes if is_stray else 0,
                     ANY if is_stray else UPDATED, seconds=30, beside=None,
                     words=QUICK_INDEXES.get(name, ()), is_whole=is_quick, is_quick=is_quick)


def where_blamed(name):
    """Return the settings of an attack after which fetch does not blame the liar."""
    return {'is_blamed': None} if name in LEADS_AWAY else {}


FIRST = quick(attack('first image: ' + name, on_image(fault), codes, LISTED, start='nothing',
                     beside=None)
              for name, fault, codes in ANSWERS if name in FRAMING)


def content_range(begin, end, size):
    """Return the header of a part from the byte begin to the byte end."""
    return [('Content-Range', 'bytes {}-{}/{}'.format(begin, end, size))]


REST, SIZE, LAST = NEW[HALF:], len(NEW), len(NEW) - 1
RIGHT = content_range(HALF, LAST, SIZE)
MULTIPART = (b'--b\r\nContent-Range: bytes %d-%d/%d\r\n\r\n' % (HALF, LAST, SIZE)
             + REST + b'\r\n--b--\r\n')

# Status, body and headers for a client that has half of an image and asks for the rest. Then it
# asks for the whole without a warning.
RESTS = {
    'from the first byte': (206, NEW, content_range(0, LAST, SIZE)),
    'from a byte later': (206, REST[1:], content_range(HALF + 1, LAST, SIZE)),
    'from a byte earlier': (206, NEW[HALF - 1:], content_range(HALF - 1, LAST, SIZE)),
    'not to the end': (206, REST[:-1], content_range(HALF, LAST - 1, SIZE)),
    'past the end': (206, REST + b'x', content_range(HALF, LAST + 1, SIZE)),
    'of another size': (206, REST, content_range(HALF, LAST, SIZE + 1)),
    'a range that is not there': (206, REST, content_range(SIZE, 2 * SIZE, SIZE)),
    'a range that begins after its end': (206, REST, content_range(LAST, HALF, SIZE)),
    'a range of 2^80': (206, REST, content_range(1 << 80, 1 << 81, 1 << 82)),
    'no range': (206, REST, []),
    'a range of lines': (206, REST, [('Content-Range', 'lines {}-{}/{}'.format(HALF, LAST, SIZE))]),
    'a range of nonsense': (206, REST, [('Content-Range', '\x00\xff')]),
    'one part of several': (206, MULTIPART, [('Content-Type', 'multipart/byteranges; boundary=b')]),
    'parts': origin.in_ranges([(HALF, HALF + 5), (HALF + 5, SIZE)], NEW),
    'other bytes': (206, OTHER[HALF:], RIGHT),
    'a byte less, as announced': (206, REST[:-1], RIGHT),
    'a byte more, as announced': (206, REST + b'x', RIGHT),
    'many bytes more': (206, REST + b'x' * 100000, RIGHT),
    'not satisfiable': (416, b'', [('Content-Range', 'bytes */{}'.format(SIZE))]),
    'not satisfiable, of another size': (416, b'', [('Content-Range', 'bytes */5')]),
    'not satisfiable, with a page': (416, b'<html>' * 50, []),
}


def half_of(answer, **settings):
    """Answer requests for the rest of the image so, others honestly."""
    return on_image(origin.if_ranged(lambda handler, _: handler.answer(*answer, **settings)))


def rest(name, lay, codes=0, **settings):
    """Return an attack on a client that asks for the rest of an image."""
    return attack('rest: ' + name, lay, codes, UPDATED if codes == 0 else LISTED, start='half',
                  options=('--no-delta',), **settings)


RESUMED = quick([
    *[rest(name, half_of(answer), asked=(HALF, None)) for name, answer in RESTS.items()],
    rest('of unknown size',
         half_of((206, REST, [('Content-Range', 'bytes {}-{}/*'.format(HALF, LAST))])),
         asked=(HALF,)),
    rest('a byte more, in chunks', half_of((206, REST + b'x', RIGHT), is_chunked=True),
         asked=(HALF, None)),
    rest('many bytes more, in chunks', half_of((206, REST + b'x' * 5000, RIGHT), is_chunked=True),
         asked=(HALF, None)),
]) + [
    rest('nothing', half_of((206, b'', RIGHT))),
    rest('unchanged', half_of((304, b'', []))),
    rest('all of it', half_of((200, NEW, []))),
    # The second request, for the whole, is answered honestly.
    rest('all of another', half_of((200, OTHER, []))),
]

GROUPS = {
    'HTTP, manifest': list(on_manifests()),
    'HTTP, image': list(on_images()),
    'HTTP, index': list(on_indexes()),
    'HTTP, first image': FIRST,
    'HTTP, rest of an image': RESUMED,
}
