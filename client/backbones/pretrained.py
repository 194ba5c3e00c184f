"""The pretrained encoder of ``PretrainedSpec``, from a folder of this machine and from nowhere else.

A checkpoint is a folder as ``save_pretrained`` of transformers or ``save_for_hf`` of timm writes it: ``config.json``,
safetensors, and a tokenizer's files.  It stands under its name in the folder that COMMONROOT_CHECKPOINTS names, and
every file in it must have the hash that the charter lists.  Nothing is downloaded and no code of a checkpoint is run.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
import platformdirs
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from commonroot.common.backbone import PretrainedSpec, TokenInput
from commonroot.common.errors import BackboneMismatch, BackboneMissing

#: Where a department keeps its checkpoints.
FOLDER: Final = "COMMONROOT_CHECKPOINTS"
#: Files of a checkpoint that are for people.
_UNREAD: Final = frozenset({".md", ".png"})
_LORA: Final = re.compile(r"(.+)\.lora_([AB])\.default\.weight")


def checkpoints() -> Path:
    """The folder of this machine's checkpoints."""
    given = os.environ.get(FOLDER)
    return Path(given) if given else Path(platformdirs.user_data_dir("commonroot")) / "checkpoints"


def build_pretrained(spec: PretrainedSpec) -> nn.Module:
    """The encoder with its low-rank change.

    Raises BackboneMissing where the library or the checkpoint is not here, BackboneMismatch where a file differs.
    """
    folder = checkpoints() / spec.checkpoint
    check_files(folder, spec.sha256)
    encoder = load_encoder(spec.library, folder)
    names = inject(encoder, rank=spec.rank, alpha=spec.alpha, targets=spec.targets)
    made = Pretrained(encoder, names, texts=spec.library == "transformers")
    ours = dict(made.named_parameters())
    frozen = spec.frozen()
    with torch.no_grad():
        for name, array in frozen.items():
            if name not in ours or tuple(ours[name].shape) != array.shape:
                raise BackboneMismatch(f"the checkpoint {spec.checkpoint!r} has no layer for {name!r}")
            ours[name].copy_(torch.from_numpy(array))
            ours[name].requires_grad_(False)
    return made


class Pretrained(nn.Module):
    """A frozen encoder and the tensors of its low-rank change, under the charter's names."""

    def __init__(self, encoder: nn.Module, names: dict[str, str], *, texts: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self._names = {f"encoder.{theirs}": ours for theirs, ours in names.items()}
        self._texts = texts
        self.train(False)

    def named_parameters(self, *args: Any, **options: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Every parameter; those of the low-rank change by their names in the charter."""
        for name, parameter in super().named_parameters(*args, **options):
            yield self._names.get(name, name), parameter

    def train(self, mode: bool = True) -> Pretrained:
        """Always as for evaluation: dropout would need one seed everywhere, and statistics of batches stay frozen."""
        super().train(False)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Token ids (n, length) or images (n, channels, height, width) to (n, width)."""
        if not self._texts:
            out: Tensor = self.encoder(x)
            return out
        here = (x != 0).to(torch.float32)[:, :, None]
        return (self.tokens(x) * here).sum(dim=1) / here.sum(dim=1).clamp(min=1.0)

    def tokens(self, ids: Tensor) -> Tensor:
        """(n, length) int32 to (n, length, width); id 0 is padding, others are one more than the tokenizer's."""
        here = (ids != 0).to(torch.int64)
        here[:, 0] = 1  # attending to nothing at all has no value
        found: Tensor = self.encoder(input_ids=(ids.long() - 1).clamp(min=0), attention_mask=here).last_hidden_state
        return found


def check_files(folder: Path, hashes: dict[str, str]) -> None:
    """Raise BackboneMissing or BackboneMismatch unless the folder holds exactly the files with these SHA-256."""
    if not folder.is_dir():
        hint = f"put it into {folder}, or set {FOLDER} to the folder that holds it"
        raise BackboneMissing(f"the checkpoint {folder.name!r} is not on this machine", hint=hint)
    found = hash_files(folder)
    for name in sorted(found.keys() | hashes.keys()):
        if name not in found:
            raise BackboneMissing(f"the checkpoint {folder.name!r} lacks the file {name}")
        if name not in hashes:
            raise BackboneMismatch(f"the checkpoint {folder.name!r} has a file {name} that the charter does not list")
        if found[name] != hashes[name]:
            raise BackboneMismatch(f"the file {name} of the checkpoint {folder.name!r} is not the charter's")


def hash_files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a checkpoint by name.  Raises BackboneMismatch for folders and pickles in it."""
    out = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix in _UNREAD:
            continue
        if not path.is_file() or path.suffix in {".bin", ".pt", ".pth", ".pkl", ".ckpt", ".h5", ".msgpack", ".py"}:
            raise BackboneMismatch(
                f"the checkpoint {folder.name!r} holds {path.name}, which is no part of a checkpoint in safetensors",
                hint="save it again as safetensors, into a folder of its own",
            )
        state = path.stat()
        out[path.name] = _hash(path, state.st_size, state.st_mtime_ns)
    return out


@functools.lru_cache(maxsize=256)
def _hash(path: Path, size: int, changed: int) -> str:
    """Read again only where a file has changed: a network is built for every round."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_encoder(library: str, folder: Path) -> nn.Module:
    """The encoder in float32, frozen.  Raises BackboneMissing where the library is, BackboneMismatch for bad files."""
    with torch.random.fork_rng(devices=[]):  # layers draw values before the checkpoint's are put in
        try:
            encoder = _transformers(folder) if library == "transformers" else _timm(folder)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
            raise BackboneMismatch(f"the checkpoint {folder.name!r} cannot be loaded: {error}") from error
    return encoder.to(torch.float32).requires_grad_(False)


def _transformers(folder: Path) -> nn.Module:
    library = _library("transformers")
    library.utils.logging.disable_progress_bar()  # a network is built for every round, and nobody watches
    encoder, report = library.AutoModel.from_pretrained(
        str(folder),
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        dtype=torch.float32,
        output_loading_info=True,
    )
    missing = [name for name in report["missing_keys"] if "pooler" not in name]  # which nothing here reads
    if missing:
        raise ValueError(f"its weights lack {sorted(missing)[0]!r}")
    module: nn.Module = encoder
    return module


def _timm(folder: Path) -> nn.Module:
    library = _library("timm")
    config = json.loads((folder / "config.json").read_bytes())
    options = dict(config.get("model_args") or {})
    module: nn.Module = library.create_model(str(config["architecture"]), pretrained=False, num_classes=0, **options)
    state = load_file(folder / "model.safetensors")
    wanted = module.state_dict()
    missing = sorted(wanted.keys() - state.keys())
    if missing:
        raise ValueError(f"its weights lack {missing[0]!r}")
    module.load_state_dict({name: state[name] for name in wanted})
    return module


def _library(name: str) -> ModuleType:
    try:
        return import_module(name)
    except (ImportError, RuntimeError, OSError) as error:  # a torchvision of another torch raises the second
        lacking = getattr(error, "name", None) or name
        raise BackboneMissing(
            f"this backbone needs {name}, which cannot be imported here: {lacking!r} is missing or broken",
            hint="pip install 'commonroot[pretrained]', and for timm the torchvision that belongs to your torch",
        ) from error


def inject(encoder: nn.Module, *, rank: int, alpha: float, targets: tuple[str, ...]) -> dict[str, str]:
    """Put a trainable low-rank change on the layers that ``targets`` end the names of.

    Returns the charter's names by the names of the encoder's new parameters: ``<layer>.lora_a``, ``<layer>.lora_b``.
    Raises BackboneMismatch where there are no such layers or their names clash.
    """
    peft = _library("peft")
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), lora_dropout=0.0, bias="none")
    try:
        with torch.random.fork_rng(devices=[]):
            peft.inject_adapter_in_model(config, encoder)
    except (ValueError, TypeError) as error:
        raise BackboneMismatch(f"no low-rank change fits layers {', '.join(targets)}: {error}") from error
    names = {}
    for name, parameter in encoder.named_parameters():
        if parameter.requires_grad:
            found = _LORA.fullmatch(name)
            if found is None:
                raise BackboneMismatch(f"the low-rank change of {name!r} is of a kind that cannot be shared")
            layer = re.sub(r"[^a-z0-9_.]", "_", found[1].lower())
            names[name] = f"{layer}.lora_{found[2].lower()}"
    if len(set(names.values())) != len(names):
        raise BackboneMismatch("two layers of the checkpoint have the same name but for capital letters")
    return names


def tokenize(spec: PretrainedSpec, texts: list[str]) -> NDArray[np.int32]:
    """Texts as the encoder's token ids, (n, length) int32: the tokenizer's plus one, padded with 0, cut at the length.

    Raises BackboneMissing or BackboneMismatch as ``build_pretrained`` does.
    """
    if not isinstance(spec.reads, TokenInput):
        raise BackboneMismatch(f"the checkpoint {spec.checkpoint!r} reads images, not texts")
    folder = checkpoints() / spec.checkpoint
    check_files(folder, spec.sha256)
    try:
        tokenizer = _library("transformers").AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
        lists = tokenizer(texts, truncation=True, max_length=spec.reads.length, padding=False)["input_ids"]
    except (OSError, ValueError, KeyError) as error:
        raise BackboneMismatch(f"the tokenizer of {spec.checkpoint!r} cannot be loaded: {error}") from error
    out = np.zeros((len(texts), spec.reads.length), dtype=np.int32)
    for row, ids in zip(out, lists, strict=True):
        row[: len(ids)] = np.asarray(ids, dtype=np.int32) + 1
    return out
