"""Fetch a picture for a client from a public address, and never from one that only this machine can reach."""

import http.client
import ipaddress
import socket
import ssl
import time
from http import HTTPStatus
from urllib.parse import SplitResult, urljoin, urlsplit

REDIRECTS, SECONDS, CHUNK = 3, 20, 1 << 16
# Networks whose addresses stand for addresses of IPv4, private ones among them.
DISGUISES = tuple(ipaddress.ip_network(net) for net in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32"))


def fetch(url: str, most: int) -> bytes:
    """What is at a URL, wherever it leads on to.

    Raises:
        ValueError: it is at no public address, cannot be had, is larger than ``most`` bytes, or takes too long.
    """
    until = time.monotonic() + SECONDS
    for _ in range(1 + REDIRECTS):
        connection, path = _connect(url, until)
        try:
            connection.request("GET", path, headers={"User-Agent": "ditmesh", "Accept": "image/*"})
            answer = connection.getresponse()
            if answer.status in (301, 302, 303, 307, 308) and (onward := answer.getheader("location")):
                url = urljoin(url, onward)
                continue
            if answer.status != HTTPStatus.OK:
                raise ValueError(f"the picture's URL answers {answer.status}")
            return _read(answer, most, until)
        except (OSError, http.client.HTTPException) as error:
            raise ValueError(f"the picture's URL cannot be read: {error}") from error
        finally:
            connection.close()
    raise ValueError(f"the picture's URL leads on more than {REDIRECTS} times")


def public_address(host: str, port: int) -> str:
    """The address that a host has now, asked for once: who answers otherwise later is not asked again.

    Raises:
        ValueError: it has none, or one that is not public.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ValueError(f"the picture's host {host!r} has no address") from error
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or not all(is_public(address) for address in addresses):
        raise ValueError(f"the picture's host {host!r} is at no public address")
    return addresses[0]


def is_public(text: str) -> bool:
    """Whether an address is one of the open internet."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(str(address.ipv4_mapped))
        if any(address in net for net in DISGUISES):
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _connect(url: str, until: float) -> tuple[http.client.HTTPConnection, str]:
    """A connection to where a URL leads, and what to ask for there."""
    parts = _parts(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    address = public_address(host, port)
    left = until - time.monotonic()
    if left <= 0:
        raise ValueError(f"the picture takes longer than {SECONDS} s")
    try:
        link = socket.create_connection((address, port), timeout=left)
        if parts.scheme == "https":
            link = _private(link, host)
    except OSError as error:
        raise ValueError(f"the picture's host {host!r} cannot be reached: {error}") from error
    connection = http.client.HTTPConnection(host, port)
    connection.sock = link
    return connection, parts._replace(scheme="", netloc="", fragment="").geturl() or "/"


def _private(link: socket.socket, host: str) -> ssl.SSLSocket:
    try:
        return ssl.create_default_context().wrap_socket(link, server_hostname=host)
    except OSError:
        link.close()
        raise


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        is_web = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError as error:
        raise ValueError("the picture's URL is none") from error
    if not is_web or parts.username is not None or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("the picture's URL is no plain http(s) URL")
    return parts


def _read(answer: http.client.HTTPResponse, most: int, until: float) -> bytes:
    content = bytearray()
    while part := answer.read1(CHUNK):
        content += part
        if len(content) > most:
            raise ValueError(f"the picture has more than {most} bytes")
        if time.monotonic() > until:
            raise ValueError(f"the picture takes longer than {SECONDS} s")
    return bytes(content)
