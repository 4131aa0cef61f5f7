"""CLIP's byte-pair tokenizer, without the network and for every version of transformers.

The merges in ``clip_merges.txt.gz`` are the first 48,894 of OpenAI CLIP's vocabulary (MIT
licence, github.com/openai/CLIP, ``bpe_simple_vocab_16e6.txt.gz``); token ids follow from their
order as in its ``simple_tokenizer.py``.
"""

import gzip
from functools import cache
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

MAX_TOKENS = 77  # positions of CLIP's text model, both end markers included
START, END = 49406, 49407
_MERGES = Path(__file__).with_name("clip_merges.txt.gz")
_WORD = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


@cache
def _tokenizer() -> Tokenizer:
    merges = [
        tuple(line.split(" "))
        for line in gzip.decompress(_MERGES.read_bytes()).decode("utf-8").splitlines()
    ]
    letters = _byte_letters()
    words = letters + [letter + "</w>" for letter in letters] + ["".join(m) for m in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    bpe = models.BPE(
        vocab={word: i for i, word in enumerate(words)},
        merges=merges,
        continuing_subword_prefix="",
        end_of_word_suffix="</w>",
        unk_token="<|endoftext|>",
    )
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _byte_letters() -> list[str]:
    """The printable stand-ins of the 256 bytes in the order of their ids: printable ones first."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(rest))]


def pieces(text: str) -> list[str]:
    """The byte-pair pieces of ``text``, without end markers; ``</w>`` closes a word."""
    return _tokenizer().encode(text, add_special_tokens=False).tokens


def overflow(prompt: str) -> str:
    """The end of ``prompt`` that CLIP's 77 tokens do not hold; empty when all fits."""
    encoding = _tokenizer().encode(prompt, add_special_tokens=False)
    room = MAX_TOKENS - 2
    return "".join(encoding.tokens[room:]).replace("</w>", " ").strip()


def tokenize(prompts: list[str], padding: int = END) -> torch.Tensor:
    """Token ids, ``[len(prompts), 77]`` int64: start, text cut to 75, end marker, padding.

    CLIP-L was trained with more end markers as padding (SD 1.x, SDXL), OpenCLIP with 0, which is
    the token of "!" (SD 2.x, SDXL's second encoder); the host samples so, too.
    """
    rows = []
    for prompt in prompts:
        ids = _tokenizer().encode(prompt, add_special_tokens=False).ids[: MAX_TOKENS - 2]
        rows.append([START, *ids, END] + [padding] * (MAX_TOKENS - 2 - len(ids)))
    return torch.tensor(rows, dtype=torch.int64).reshape(len(prompts), MAX_TOKENS)


def write_vocabulary(folder: Path) -> None:
    """``vocab.json`` and ``merges.txt``, of which transformers makes the same tokenizer."""
    _tokenizer().model.save(str(folder))
