"""Every random draw of a run as a function of (seed, what for, position).

No draw depends on the one before it, on the batch it falls in or on the device: a run resumes
from one integer, and four rows in one batch get the noise they would get one by one.
"""

import hashlib

import torch


def generator(seed: int, purpose: str, *position: int) -> torch.Generator:
    """A CPU generator seeded from a hash of its arguments."""
    text = ":".join([str(seed), purpose, *map(str, position)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    # manual_seed takes 64 bits; the top bit is left off because some backends read it as a sign
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def pick(choices: int, seed: int, purpose: str, *position: int) -> int:
    """One of ``0 … choices−1``, each as likely."""
    return int(torch.randint(choices, (), generator=generator(seed, purpose, *position)))


def permutation(length: int, seed: int, purpose: str, *position: int) -> list[int]:
    """A shuffled ``0 … length−1``."""
    return torch.randperm(length, generator=generator(seed, purpose, *position)).tolist()
