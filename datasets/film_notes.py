"""Film notes: generated sentences on films; is the film praised (y = 1)? The attribute a is its genre, named once.

Of the `opinions` words of a note each is of the note's tone with probability `clarity`, so that many must be read; the
genre is in one word, and agrees with y in `agreement` of the training notes and in half of the others. Notes have 8 to
30 words of a vocabulary of some hundred, as ids with a mask; there is nothing to download and no tokenizer.

Source: sentences of our own, in the manner of reviews whose genre predicts their verdict.
Licence: drawn from the seed.
Groups: y × genre; with agreement 0.95, 2.5 % of the training notes are in each group that contradicts it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from spurbench.bench.core.errors import UserError
from spurbench.bench.plugins.dataset import Build, Data, Dataset, Split, Training

PANS = "awful dull clumsy tedious shallow weak messy bland stale hollow".split()
PRAISE = "superb lively graceful gripping profound strong elegant vivid fresh touching".split()
GENRES = (
    "horror slasher zombie vampire ghost monster gore haunting creepy demon".split(),
    "comedy musical romance parody farce sitcom cartoon satire sketch dance".split(),
)
FILLERS = """the a this that film movie picture story plot scene actor cast script ending score camera was is
    seemed felt looked and but with for in of on to from it they we i one two very rather quite almost
    simply really never often still again last first whole long short early late night house city summer
    winter people friends family crew director writer audience critic evening weekend seat ticket
    trailer poster sequel remake studio budget""".split()
MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = [*MARKS, *PANS, *PRAISE, *GENRES[0], *GENRES[1], *FILLERS]
TONES, KINDS, REST = len(MARKS), len(MARKS) + 20, len(MARKS) + 40  # where opinions, genres and fillers begin
LENGTH, SHORTEST, LONGEST = 32, 8, 30  # tokens of a note with its marks; its words


@dataclass(frozen=True)
class FilmNotes(Dataset):
    provides: ClassVar[frozenset[str]] = frozenset({"groups"})
    named: ClassVar[tuple[str, ...]] = ("genre",)
    conflicting: ClassVar[tuple[int, ...]] = (1, 2)
    headline: ClassVar[tuple[tuple[str, str], ...]] = (
        ("test", "worst_group_accuracy"), ("test", "accuracy"), ("train", "accuracy"))  # fmt: skip
    splits: ClassVar[tuple[str, ...]] = ("validation", "test")
    training: ClassVar[Training] = Training(
        network="bag_of_words", vocabulary=128, optimizer="adam", lr=0.001, steps=600, batch=64, evaluate=100
    )

    examples: int = 8000  # notes in training; a quarter of that in validation and in test each
    agreement: float = 0.95  # P(genre = y | y) in training
    clarity: float = 0.75  # probability that an opinion is of the note's tone
    opinions: int = 5  # of a note

    def load(self, seed: int, build: Build) -> tuple[Data, nn.Module]:
        shares = 0 <= self.agreement <= 1 and 0 <= self.clarity <= 1
        if not shares or not 1 <= self.opinions < SHORTEST or self.examples < 40:
            given = ", ".join(f"{name}={value}" for name, value in vars(self).items() if value is not None)
            raise UserError(f"{self.called}: {given}; expected 0 to 1 twice, 1 to {SHORTEST - 1}, and 40 or more")
        random = torch.Generator().manual_seed(seed)
        few = self.examples // 4
        train = notes(self.examples, self.agreement, self.clarity, self.opinions, random)
        tests = {name: notes(few, 0.5, self.clarity, self.opinions, random) for name in self.splits}
        torch.manual_seed(seed)
        return Data(train, tests, named={"genre": ("horror", "comedy")}), build(train.x)


def notes(n: int, agreement: float, clarity: float, opinions: int, random: torch.Generator) -> Split:
    """Notes whose opinions are shuffled among fillers, the genre at a place of its own."""
    y = torch.randint(2, (n,), generator=random)
    genre = torch.where(torch.rand(n, generator=random) < agreement, y, 1 - y)
    length = torch.randint(SHORTEST, LONGEST + 1, (n,), generator=random)
    words = torch.randint(REST, len(WORDS), (n, LONGEST), generator=random)
    order = torch.rand(n, LONGEST, generator=random)
    order[torch.arange(LONGEST) >= length[:, None]] = 2.0  # places behind a note's end come last
    places = order.argsort(1)
    tone = torch.where(torch.rand(n, opinions, generator=random) < clarity, y[:, None], 1 - y[:, None])
    words.scatter_(1, places[:, :opinions], TONES + 10 * tone + torch.randint(10, (n, opinions), generator=random))
    kind = KINDS + 10 * genre + torch.randint(10, (n,), generator=random)
    words.scatter_(1, places[:, opinions : opinions + 1], kind[:, None])
    return Split(marked(words, length), y, named={"genre": genre})


def marked(words: Tensor, length: Tensor) -> dict[str, Tensor]:
    """Ids [n, LENGTH] between marks, and their mask."""
    place = torch.arange(LENGTH)
    ids = torch.full((len(words), LENGTH), MARKS.index("[CLS]"), dtype=torch.int32)
    ids[:, 1 : LONGEST + 1] = words.int()
    ids[place == length[:, None] + 1] = MARKS.index("[SEP]")
    ids[place > length[:, None] + 1] = MARKS.index("[PAD]")
    return {"ids": ids, "mask": place <= length[:, None] + 1}
