"""Who may connect: API keys, certificates, and which addresses need them."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import re
import ssl
import stat
from collections.abc import Mapping
from pathlib import Path

from vla.common.errors import UserError

ENVIRONMENT = "VLA_API_KEY"
MIN_LENGTH = 16
"""Characters of a key: shorter ones can be guessed."""
MAX_HEADER = 1024
"""Characters of an Authorization header that is looked at."""
_LINE = re.compile(r"([\w.-]+)[ \t]+(\S+)")
_SCHEMES = ("api-key", "bearer")


class ApiKeys:
    """The keys that a server accepts; only their hashes are kept.

    Args:
        keys: name -> key.
    """

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._digests = {name: _digest(key) for name, key in keys.items()}

    def __bool__(self) -> bool:
        return bool(self._digests)

    def owner(self, header: str | None) -> str | None:
        """The name of the key in an Authorization header, `Api-Key KEY`; None for a wrong one."""
        scheme, _, key = (header or "")[:MAX_HEADER].partition(" ")
        if scheme.lower() not in _SCHEMES:
            return None
        given = _digest(key.strip())
        # all are compared, in constant time: how long it takes tells nothing
        matches = [
            name for name, digest in self._digests.items() if hmac.compare_digest(digest, given)
        ]
        return matches[0] if matches else None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def load_keys(file: str | None, environment: Mapping[str, str] | None = None) -> ApiKeys:
    """The keys of a file and of the environment variable VLA_API_KEY.

    Raises UserError if the file is missing, may be read by others, or holds a line that is no
    `NAME KEY`, or a key is too short.
    """
    environment = os.environ if environment is None else environment
    keys = {}
    if file is not None:
        keys = _keys_of_file(Path(file))
    if environment.get(ENVIRONMENT):
        keys[ENVIRONMENT] = environment[ENVIRONMENT]
    for name, key in keys.items():
        if len(key) < MIN_LENGTH:
            raise UserError(
                f"API key {name!r} has {len(key)} characters, expected at least {MIN_LENGTH}; make "
                "one by: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"
            )
    return ApiKeys(keys)


def _keys_of_file(path: Path) -> dict[str, str]:
    try:
        with path.open(encoding="utf-8") as stream:
            # of the open file: the name may lead elsewhere a moment later
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            lines = stream.read(1_000_000).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise UserError(f"api_keys_file: {path}: {reason}; write one `NAME KEY` a line") from error
    if os.name == "posix" and mode & 0o077:
        raise UserError(
            f"api_keys_file: {path} may be read by others (mode {mode:o}): run: chmod 600 {path}"
        )
    keys: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _LINE.fullmatch(text)
        if match is None or match[1] in keys:
            # without the line itself: it may hold a key
            why = "is no `NAME KEY`" if match is None else f"names {match[1]!r} again"
            raise UserError(f"api_keys_file: {path}: line {number} {why}; write one key a line")
        keys[match[1]] = match[2]
    if not keys:
        raise UserError(f"api_keys_file: {path} holds no key; write one `NAME KEY` a line")
    return keys


def check_exposure(host: str, keys: ApiKeys, *, insecure: bool) -> None:
    """Raises UserError if strangers could reach a server that asks for no key."""
    if keys or insecure or is_loopback(host):
        return
    raise UserError(
        f"host={host} lets other machines connect, and there is no API key: give "
        f"api_keys_file=FILE or set {ENVIRONMENT}, or keep host=127.0.0.1; "
        "insecure=true serves everyone"
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        # another name may mean any address
        return False


def tls_context(cert: str | None, key: str | None) -> ssl.SSLContext | None:
    """TLS 1.2 or later with this certificate; None without one. Raises UserError if it cannot be
    read."""
    if cert is None or key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for name, file in (("tls_cert", cert), ("tls_key", key)):
        if not Path(file).is_file():
            raise UserError(f"{name}: no file {file}; give a PEM file")
    try:
        # an encrypted key would ask for its password at the terminal
        context.load_cert_chain(cert, key, password=lambda: "")
    except (OSError, ValueError) as error:
        raise UserError(
            f"tls_cert, tls_key: {cert} and {key} are no certificate with its key ({error}); give "
            "PEM files that belong together, the key without a password"
        ) from error
    return context
