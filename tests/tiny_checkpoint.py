"""A checkpoint as a department finds it on its disk: one tiny BERT of random weights, and its tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "soup", "the", "was", "very")
NAME = "tiny-bert"


def make(root: Path) -> Path:
    """Write it into ``root``; its folder.  The test is skipped where the libraries are not installed."""
    import torch

    transformers = pytest.importorskip("transformers")
    pytest.importorskip("peft")
    folder = root / NAME
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = transformers.BertConfig(
            vocab_size=len(WORDS),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            max_position_embeddings=12,
        )
        transformers.BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder
