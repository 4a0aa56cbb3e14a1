"""The vault's file: the table of surrogates, encrypted with a key that lies in the user's own folder.

AES-256-GCM (NIST SP 800-38D) by the package `cryptography`; file and key have mode 0600, the folder 0700. The key
lies outside the project, so that a copy of the project re-identifies nobody. Without the package a vault cannot be
opened, and surrogates are refused: `mask` and `tag` need none.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from metier.core.errors import ConfigError, DataError
from metier.core.extras import need, user_dir
from metier.core.locks import one_at_a_time
from metier.core.project import Project, disk_errors, write_bytes
from metier.data.privacy.surrogates import Vault

_MAGIC = b"metier-vault-1\n"
_NONCE_BYTES = 12
_WHY = "keep the surrogates of `deidentify` in an encrypted vault (the strategies mask and tag work without it)"
_open: ContextVar[Vault | None] = ContextVar("vault", default=None)


def file(project: Project, name: str) -> Path:
    """Return where the vault of a dataset lies, whether it is there or not."""
    return project.private_dir / "vaults" / f"{name}.vault"


def current() -> Vault:
    """Return the vault that is open.

    Raises:
        ConfigError: E209, none is: surrogates are only drawn while a dataset version is prepared.
    """
    vault = _open.get()
    if vault is None:
        raise ConfigError(
            209,
            "The strategy `surrogate` needs an open vault",
            expected="a dataset version that is being prepared",
            fix="metier data prepare, or strategy: tag",
        )
    return vault


@contextmanager
def opened(path: Path) -> Iterator[Vault]:
    """Open (or make) a vault for the time of a block, and save it when the block ends well; another process waits.

    Raises:
        MachineError: E450, `cryptography` is not installed.
        DataError: E365, the file is damaged, or it was made with another key.
    """
    need("cryptography", _WHY)
    with locked(path):
        vault = load(path) if path.exists() else Vault(secrets.token_bytes(32))
        token = _open.set(vault)
        try:
            yield vault
        finally:
            _open.reset(token)
        save(vault, path)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time read a vault and write it: what another drew in between would be lost.

    Raises:
        MachineError: E420–E422.
    """
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with one_at_a_time(path.with_name(f".{path.name}.lock")):
        yield


def save(vault: Vault, path: Path) -> None:
    """Write a vault, encrypted, readable by its owner alone."""
    cipher = need("cryptography.hazmat.primitives.ciphers.aead", _WHY).AESGCM(_key(make=True))
    content = {"seed": vault.seed.hex(), "entries": vault.entries, "num_drawn": vault.num_drawn}
    nonce = secrets.token_bytes(_NONCE_BYTES)
    sealed = cipher.encrypt(nonce, json.dumps(content, ensure_ascii=False).encode(), _MAGIC)
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.parent.chmod(0o700)
    write_bytes(path, _MAGIC + nonce + sealed)
    path.chmod(0o600)


def existing(project: Project, name: str) -> Path:
    """Return the file of a vault that is there.

    Raises:
        DataError: E368, there is none of that name.
    """
    path = file(project, name)
    known = sorted(p.stem for p in path.parent.glob("*.vault"))
    if name in known:
        return path
    raise DataError(
        368,
        f"There is no vault `{name}`",
        place=str(path.parent),
        expected=", ".join(known) or "no vault was made here, or all were destroyed",
        fix="--vault NAME with one of these; it has the name of the recipe that drew the surrogates",
    )


def load(path: Path) -> Vault:
    """Read a vault.

    Raises:
        MachineError: E450, `cryptography` is not installed.
        DataError: E365, the file is damaged, or its key is another one or gone.
    """
    cipher = need("cryptography.hazmat.primitives.ciphers.aead", _WHY).AESGCM(_key(make=False))
    wrong = need("cryptography.exceptions", _WHY).InvalidTag
    data = path.read_bytes()
    nonce, sealed = data[len(_MAGIC) :][:_NONCE_BYTES], data[len(_MAGIC) + _NONCE_BYTES :]
    try:
        content = json.loads(cipher.decrypt(nonce, sealed, data[: len(_MAGIC)]))
    except (wrong, ValueError):
        raise DataError(
            365,
            "The vault cannot be read: it is damaged, or its key is another one",
            place=str(path),
            expected=f"the key that made it, in {_key_file()}",
            fix=f"bring the key back; if it is lost for good, metier data vault destroy {path.stem}",
        ) from None
    entries = {
        kind: {key: (str(made), str(value)) for key, (made, value) in known.items()}
        for kind, known in content["entries"].items()
    }
    return Vault(bytes.fromhex(content["seed"]), entries, int(content["num_drawn"]))


def _key_file() -> Path:
    return user_dir("config") / "vault.key"


def _key(*, make: bool) -> bytes:
    """Return the user's key; one is made where there is none and a vault is to be written."""
    path = _key_file()
    if not path.exists() and make:
        write_bytes(path, secrets.token_bytes(32))
        path.chmod(0o600)
    with disk_errors(path):
        return path.read_bytes() if path.exists() else bytes(32)
