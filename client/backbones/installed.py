"""Finding the package behind an ``InstalledSpec``.

A package offers a backbone in its ``pyproject.toml``:

    [project.entry-points."commonroot.backbones"]
    our-encoder = "our_package:build"

``build(reads, options)`` gets the charter's input (``commonroot.common.backbone.Input``) and options, and returns a
``torch.nn.Module`` that maps a batch to (n, width), and with ``per_token`` has ``tokens(ids)`` to (n, length, width).
Its trainable parameters are named as the charter's ``tensors``; frozen ones (``requires_grad`` false) are its own
business.  It must give the same numbers for the same input and seed, or a repeated round would differ.
"""

from __future__ import annotations

from importlib.metadata import entry_points

from torch import nn

from commonroot.common.backbone import InstalledSpec
from commonroot.common.errors import BackboneMismatch, BackboneMissing

GROUP = "commonroot.backbones"


def build_installed(spec: InstalledSpec) -> nn.Module:
    """The package's network.

    Raises BackboneMissing where no package offers it, BackboneMismatch where its version is another or it is no module.
    """
    found = [point for point in entry_points(group=GROUP) if point.name == spec.name]
    if not found:
        offered = ", ".join(sorted({point.name for point in entry_points(group=GROUP)})) or "none"
        raise BackboneMissing(f"no installed package offers the backbone {spec.name!r} (offered: {offered})")
    if len(found) > 1:
        raise BackboneMismatch(f"{len(found)} installed packages offer a backbone {spec.name!r}; keep one of them")
    point = found[0]
    version = point.dist.version if point.dist is not None else ""
    if spec.version and version != spec.version:
        raise BackboneMismatch(
            f"the charter wants version {spec.version} of the backbone {spec.name!r}; {version or 'none'} is installed"
        )
    try:
        module = point.load()(spec.reads, dict(spec.options))
    except Exception as error:  # whatever another's code may raise
        raise BackboneMismatch(f"the installed backbone {spec.name!r} cannot be built: {error}") from error
    if not isinstance(module, nn.Module):
        raise BackboneMismatch(f"the installed backbone {spec.name!r} is no torch module")
    return module
