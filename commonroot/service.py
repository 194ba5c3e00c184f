"""systemd units for a coordinator and for a department: hardened, restarted when they fail, run by nobody's login.

A system unit runs as the user who owns the folder; a user unit as the user whose manager it is installed into.
"""

from __future__ import annotations

import getpass
import os
import pwd
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from commonroot.common.errors import ConfigError

_SYSTEM: Final = Path("/etc/systemd/system")

_UNIT: Final = """\
# Made by `commonroot {side} install-service`; see docs/operating.md.
[Unit]
Description=Commonroot {side} in {root}
Documentation=man:systemd.exec(5)
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=exec
{user}ExecStart={program} {side} up {root} --json
WorkingDirectory={root}
Environment=PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
{credential}# An ended run is no failure; a crash is, and the daemon goes on where it stood.
Restart=on-failure
RestartSec=10
TimeoutStopSec=60
LimitNOFILE=65536
LimitCORE=0
UMask=0077

# It reads its program and its data, and writes to its folder.
ReadWritePaths={root}
ProtectSystem=strict
NoNewPrivileges=yes
PrivateTmp=yes
{hardened}
[Install]
WantedBy={target}
"""

#: What a manager without root's rights cannot do for its services.
_SYSTEM_ONLY: Final = """\
ProtectHome=read-only
PrivateDevices={devices}
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
ProtectProc=invisible
RestrictNamespaces=yes
RestrictSUIDSGID=yes
RestrictRealtime=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
LockPersonality=yes
SystemCallArchitectures=native
CapabilityBoundingSet={capabilities}
AmbientCapabilities={capabilities}
"""
_EVERYWHERE: Final = """\
RestrictSUIDSGID=yes
RestrictRealtime=yes
LockPersonality=yes
SystemCallArchitectures=native
"""


@dataclass(frozen=True, slots=True)
class Service:
    """A unit: its name, where it goes, what is in it, and what to type next."""

    name: str
    path: Path
    text: str
    next_steps: tuple[str, ...]

    def install(self, write: Callable[[Path, bytes], None]) -> None:
        """Write the unit, with what writes files whole.  Raises ConfigError where this user may not."""
        if not self.path.parent.is_dir():
            try:
                self.path.parent.mkdir(parents=True)
            except OSError as error:
                raise ConfigError(f"cannot make {self.path.parent}: {error.strerror}", hint=_HINT) from error
        try:
            write(self.path, self.text.encode())
        except ConfigError as error:
            raise ConfigError(str(error), hint=_HINT) from error

    def describe(self) -> dict[str, Any]:
        """For ``--json``."""
        return {"unit": self.name, "file": str(self.path), "text": self.text, "next": list(self.next_steps)}


_HINT: Final = "run it with sudo, or with --user, or print the unit with --stdout"


def service(
    side: str,
    root: Path,
    *,
    for_user: bool,
    name: str,
    passphrase_file: Path | None = None,
    key_file: Path | None = None,
    low_port: bool = False,
    devices: bool = False,
) -> Service:
    """The unit of one side.

    Parameters  side: coordinator or department; root: its folder; for_user: a unit of this user's own manager;
                name: of the federation or department, part of the unit's name; passphrase_file, key_file: what opens
                sealed keys, handed over as a credential that only the service can read; low_port: it listens below
                1024; devices: it may use GPUs
    Raises  ConfigError: a path that systemd would read in another way
    """
    root = root.resolve()
    for path in (root, *filter(None, (passphrase_file, key_file))):
        if not re.fullmatch(r"[A-Za-z0-9/._@:+-]+", str(path)):
            raise ConfigError(f"{path} has characters that mean something to systemd", hint="choose a plain path")
    unit = f"commonroot-{side}-{re.sub(r'[^a-z0-9-]+', '-', name.lower()).strip('-') or 'main'}.service"
    secrets = [("passphrase", "COMMONROOT_PASSPHRASE_FILE", passphrase_file), ("key", "COMMONROOT_KEY_FILE", key_file)]
    credential = "".join(
        f"LoadCredential={what}:{path.resolve()}\nEnvironment={variable}=%d/{what}\n"
        for what, variable, path in secrets
        if path is not None
    )
    capabilities = "CAP_NET_BIND_SERVICE" if low_port else ""
    text = _UNIT.format(
        side=side,
        root=root,
        user="" if for_user else f"User={_owner(root)}\n",
        program=_program(),
        credential=credential,
        hardened=_EVERYWHERE
        if for_user
        else _SYSTEM_ONLY.format(devices="no" if devices else "yes", capabilities=capabilities),
        target="default.target" if for_user else "multi-user.target",
    )
    control = "systemctl --user" if for_user else "sudo systemctl"
    steps = [f"{control} daemon-reload", f"{control} enable --now {unit}", f"{control} status {unit}"]
    steps.append(f"journalctl {'--user ' if for_user else ''}-u {unit} -f")
    if for_user:
        steps.insert(2, f"sudo loginctl enable-linger {getpass.getuser()}")
    folder = _user_units() if for_user else _SYSTEM
    return Service(unit, folder / unit, text, tuple(steps))


def _user_units() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd" / "user"


def _owner(root: Path) -> str:
    try:
        return pwd.getpwuid(root.stat().st_uid).pw_name
    except (KeyError, OSError):
        return str(root.stat().st_uid) if root.exists() else getpass.getuser()


def _program() -> str:
    """The command that runs this very installation."""
    beside = Path(sys.executable).with_name("commonroot")
    found = str(beside) if beside.exists() else shutil.which("commonroot")
    return found or f"{sys.executable} -m commonroot"
