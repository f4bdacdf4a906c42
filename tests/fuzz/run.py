"""Fuzz one target in this process, guided by coverage: ``python -m tests.fuzz.run TARGET SECONDS``.

A fault leaves the input beside the corpus as ``crash-*``, ``oom-*`` or ``timeout-*``; give its path
behind the seconds to run it alone. Ends with another code than 0 then.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import atheris

MEMORY = 4096  # MiB; the fuzzer itself takes about 15 MiB a second
LARGEST = 1024  # MiB at once
LONGEST = 20  # seconds for one input


def main(name: str, seconds: str, *more: str) -> None:
    with atheris.instrument_imports(include=["catchment", "zipfile"]):
        from tests.fuzz.targets import SEEDS, TARGETS, WORDS

    folder = Path(os.environ.get("FUZZ_FOLDER") or tempfile.mkdtemp(prefix="catchment-fuzz-"))
    corpus = folder / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS[name]()):
        (corpus / f"seed-{number}").write_bytes(seed)
    words = folder / f"{name}.dict"
    lines = ("".join(f"\\x{byte:02x}" for byte in word) for word in WORDS[name])
    words.write_text("".join(f'"{line}"\n' for line in lines))
    options = [
        f"-max_total_time={seconds}",
        f"-rss_limit_mb={MEMORY}",
        f"-malloc_limit_mb={LARGEST}",
        f"-timeout={LONGEST}",
        "-max_len=65536",
        "-len_control=50",
        f"-dict={words}",
        f"-artifact_prefix={folder}/{name}-",
        "-print_final_stats=1",
        "-verbosity=1",
    ]
    atheris.Setup([sys.argv[0], *options, *(more or [str(corpus)])], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
