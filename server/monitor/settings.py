"""``[monitor]`` of ``coordinator.toml``: where the page for central IT is served."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

#: What a fresh ``coordinator.toml`` says about it.
TEMPLATE: Final = """
[monitor]
# The page for central IT and the metrics for Prometheus, on a port of their own; see docs/watching.md.
# On any address but this machine's own they are served over TLS, under the names above.
enabled = {enabled}
host = "127.0.0.1"
port = 9444
"""


class MonitorSettings(BaseModel):
    """Whether and where the page is served.

    host  an address to listen on; loopback unless somebody else is meant to look
    port  0 for any free one
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 9444

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it, so that it needs no TLS."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
