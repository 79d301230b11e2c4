"""What a request may hold: identities, pages and sealed tokens."""

import base64
import binascii
import hashlib
import hmac
import re

from plugin.failure import Failure

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")
MAX_KEY = 512
DEFAULT_PAGE = 100
MAX_PAGE = 1000


def scope(tenant, service):
    """Checks a tenant and a service, and returns both."""
    if tenant != "_shared" and not _LABEL.fullmatch(tenant):
        raise Failure("INVALID_ARGUMENT", "the tenant is not valid")
    if service and not _LABEL.fullmatch(service):
        raise Failure("INVALID_ARGUMENT", "the service is not valid")
    return tenant, service


def _segment(text):
    return bool(_SEGMENT.fullmatch(text)) and text not in (".", "..")


def identity(i):
    """Checks an Id, and returns its parts."""
    if not i.key or len(i.key) > MAX_KEY or not all(map(_segment, i.key.split("/"))):
        raise Failure("INVALID_ARGUMENT", "the key is not valid",
                      hint="use A-Z, a-z, 0-9, '.', '_', '-', and '/' between segments")
    return *scope(i.tenant, i.service), i.key


def key_prefix(prefix):
    """Checks the beginning of a key, whose last segment may be unfinished."""
    *whole, last = prefix.split("/")
    if len(prefix) > MAX_KEY or not all(map(_segment, whole)) or (last and not _SEGMENT.fullmatch(last)):
        raise Failure("INVALID_ARGUMENT", "the key prefix is not valid")
    return prefix


def page_size(n):
    """Checks a page size, and returns the one to use."""
    if not 0 <= n <= MAX_PAGE:
        raise Failure("INVALID_ARGUMENT", f"the page size is not between 0 and {MAX_PAGE}")
    return n or DEFAULT_PAGE


class Sealer:
    """Makes and reads tokens that are good for what they were issued for and nothing else."""

    MAC = 16

    def __init__(self, key):
        self._key = key

    def _mac(self, payload, parts):
        text = b"".join(len(p).to_bytes(8, "big") + p for p in (x.encode() for x in (*parts, payload)))
        return hmac.digest(self._key, len(parts).to_bytes(8, "big") + text, hashlib.sha256)[: self.MAC]

    def seal(self, payload, *parts):
        """A token for payload that only open with the same parts reads."""
        raw = self._mac(payload, parts) + payload.encode()
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    def open(self, token, *parts):
        """The payload, or a Failure for whatever seal did not return for these parts."""
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
            payload = raw[self.MAC :].decode()
            # Compared as text too: base64 has more than one spelling of some bytes.
            if hmac.compare_digest(self.seal(payload, *parts).encode(), token.encode()):
                return payload
        except (binascii.Error, ValueError):
            pass
        raise Failure("INVALID_ARGUMENT", "the page or resume token is not one that was issued for this request",
                      hint="start again without it")
