"""From a checkpoint on disk to the ``[backbone]`` section that a charter needs: what central IT runs once.

The section holds everything by which departments recognise the checkpoint and build the same tensors on it: hashes of
its files, the layers that are changed, and the name and shape of every tensor that is trained.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, Literal, cast

from torch import nn

from commonroot.client.backbones.pretrained import hash_files, inject, load_encoder
from commonroot.common.backbone import ImageInput, PretrainedSpec, TokenInput
from commonroot.common.errors import BackboneMissing, ConfigError

#: Ends of the names of layers that are usually changed, the first that a checkpoint has: query and value projections,
#: attention in one matrix, and the middle convolutions of residual networks.
USUAL: Final = (("query", "value"), ("q_proj", "v_proj"), ("q_lin", "v_lin"), ("qkv",), ("c_attn",), ("conv2",))


def describe(
    folder: Path,
    *,
    targets: tuple[str, ...] = (),
    rank: int = 8,
    alpha: float = 16.0,
    share: str = "share-a",
    length: int = 128,
) -> PretrainedSpec:
    """The spec of a checkpoint in ``folder``, whose last part is the name that departments will keep it under.

    targets  ends of the names of the layers to change; the first of ``USUAL`` that the checkpoint has where empty
    share    ``share-a`` or ``freeze-a``
    length   tokens read of a text

    Raises BackboneMissing, BackboneMismatch as ``backbones.build`` does; ConfigError where the layers cannot be named.
    """
    if not (folder / "config.json").is_file():
        raise BackboneMissing(f"{folder} holds no config.json, so it is no checkpoint")
    hashes = hash_files(folder)
    config = _json(folder / "config.json")
    library: Literal["transformers", "timm"] = "timm" if "architecture" in config else "transformers"
    encoder = load_encoder(library, folder)
    chosen = targets or _usual(encoder)
    names = inject(encoder, rank=rank, alpha=alpha, targets=chosen)
    shapes = {names[name]: tuple(p.shape) for name, p in encoder.named_parameters() if name in names}
    reads, width = _reads(library, encoder, config, length)
    try:
        return PretrainedSpec(
            library=library,
            checkpoint=folder.resolve().name,
            sha256=hashes,
            reads=reads,
            width=width,
            rank=rank,
            alpha=alpha,
            targets=chosen,
            share=cast(Literal["share-a", "freeze-a"], share),  # which the spec checks
            lora_a=tuple((name, shape) for name, shape in shapes.items() if name.endswith("lora_a")),
            lora_b=tuple((name, shape) for name, shape in shapes.items() if name.endswith("lora_b")),
        )
    except ValueError as error:
        raise ConfigError(f"the checkpoint {folder.name!r} cannot be shared: {error}") from error


def to_toml(spec: PretrainedSpec) -> str:
    """The ``[backbone]`` section of a charter."""
    values = spec.model_dump(mode="json", exclude={"adapter"})
    lines = ["[backbone]"]
    for name, value in values.items():
        if name in ("lora_a", "lora_b"):
            rows = [f"    {json.dumps(row)}," for row in value]
            lines += [f"{name} = [", *rows, "]"]
        elif isinstance(value, dict):
            inside = ", ".join(f"{json.dumps(key)} = {json.dumps(one)}" for key, one in value.items())
            lines.append(f"{name} = {{ {inside} }}")
        else:
            lines.append(f"{name} = {json.dumps(value)}")
    return "\n".join(lines) + "\n"


def _usual(encoder: nn.Module) -> tuple[str, ...]:
    ends = {name.rpartition(".")[2] for name, module in encoder.named_modules() if not list(module.children())}
    for targets in USUAL:
        if ends.issuperset(targets):
            return targets
    shown = ", ".join(sorted(ends)[:40])
    raise ConfigError(f"which layers should change? none of the usual names is among: {shown}")


def _reads(
    library: str, encoder: nn.Module, config: dict[str, Any], length: int
) -> tuple[TokenInput | ImageInput, int]:
    if library == "timm":
        cut: dict[str, Any] = {**getattr(encoder, "pretrained_cfg", {}), **config.get("pretrained_cfg", {})}
        channels, height, width = cut.get("input_size", (3, 224, 224))
        return ImageInput(channels, height, width), int(encoder.num_features)  # type: ignore[arg-type]
    found: Any = encoder.config
    longest = int(getattr(found, "max_position_embeddings", length) or length)
    return TokenInput(min(length, longest), int(found.vocab_size) + 1), int(found.hidden_size)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is not a JSON object")
    return found
