"""The tokenization study: what the pieces of a split word read as, layer by layer, and since when as the whole word.

After arXiv 2410.05864, which found that models put the pieces of words together in early to middle layers; with
controls that tell what came from the other pieces from what the last one says by itself.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Unpack

from bathyscope.engine import Plan, Stop
from bathyscope.engine.plan import MEMORY_BUDGET
from bathyscope.generation import Progress
from bathyscope.model import Model
from bathyscope.results import provenance
from bathyscope.store import Store
from bathyscope.studies.bootstrap import RESAMPLES
from bathyscope.studies.tokenization_study.asked import AskedWords, TokenizationChoices
from bathyscope.studies.tokenization_study.measures import Spelled
from bathyscope.studies.tokenization_study.portions import Spoken, WordMeasuring, groups_of
from bathyscope.studies.tokenization_study.result import TokenizationResult


def tokenization(
    model: Model,
    *,
    store: Store | None = None,
    budget: int = MEMORY_BUDGET,
    progress: Progress | None = None,
    planned: Callable[[Mapping[str, Plan]], None] | None = None,
    stop: Stop | None = None,
    **choices: Unpack[TokenizationChoices],
) -> TokenizationResult:
    """Read every piece of words that the tokenizer splits, after each layer, through a prompt that repeats.

    A word stands at the end of a sentence that says nothing about it. What a layer holds at one of its pieces is
    written into the prompt, and the model repeats it in as many tokens as it takes: the piece, the whole word, or
    something else.

    Args:
        model: the model.
        store: where finished cells are kept.
        budget: bytes that one batch may take above the loaded model.
        progress: called with what is done and what there is to do.
        planned: called before anything is carried out, with the plan of the first words.
        stop: looked at at every decoding step.
        choices: see `TokenizationChoices`.

    Returns:
        A record a piece and layer, with 95% intervals by a bootstrap over words.

    Raises:
        UsageError: fewer than 4 words that the model splits, an unknown prompt, or a layer that does not exist.
        CancelledError: `stop` said so; with a store, the same call goes on from there.

    Example:
        >>> import bathyscope
        >>> from bathyscope.facts import split_words
        >>> from bathyscope.studies import tokenization
        >>> found = tokenization(bathyscope.load(), words=split_words()[:4], layers="-1,9", new_tokens=3)
        >>> [(row["layer"], row["n"]) for row in found.of("last")]
        [(-1, 4), (9, 4)]
    """
    asked = AskedWords.of(model, choices)
    groups, spec = groups_of(asked), asked.spec()
    measuring = WordMeasuring(model, groups, budget, progress, stop)
    plans = {"words": measuring.plan(groups[0])}
    if planned is not None:
        planned(plans)
    began = time.perf_counter()
    kind = TokenizationResult.kind
    found = measuring.run() if store is None else measuring.run_stored(store, kind=kind, spec=spec)
    seconds = time.perf_counter() - began
    spelled = Spelled(asked, Spoken.of(found.values))
    return TokenizationResult(
        records=tuple(spelled.records()),
        provenance=provenance([model.provenance()], spec),
        notes=tuple(_notes(asked)),
        controls=tuple(spelled.of_nothing()),
        plans={name: one.to_dict() for name, one in plans.items()},
        timing={
            "seconds": round(seconds, 4),
            "cells": measuring.n_cells,
            "computed": found.computed,
            "cells_per_second": round(measuring.n_cells / seconds, 2),
        },
        run=found.run,
        best=spelled.best(),
        words=tuple(spelled.each_word()),
        first_layers=spelled.first_layers(),
        by_pieces=tuple(spelled.by_pieces()),
    )


def _notes(asked: AskedWords) -> Iterator[str]:
    target = asked.choices.get("target_layer", "same")
    where = "at the layer that was read" if target == "same" else f"after layer {target}"
    yield f"{len(asked.words)} words in '{asked.context}', seed {asked.seed}; written {where} of '{asked.target.text}'"
    if asked.whole:
        yield f"left out, since {asked.model.name} does not split them: {', '.join(asked.whole)}"
    yield "layer: the residual stream after that block; -1 is the embedding"
    yield (
        f"whole: the {asked.new_tokens} tokens that are written have the word, with borders on both sides and whatever "
        "its case; gloss: they have a word that says what it is; own: they have the piece itself"
    )
    yield (
        "alone: the last piece without the others; swapped: the last piece behind another word's; shuffled: another "
        "word looked for; unpatched: nothing written; prompting: the word as text, which is the most the prompt allows"
    )
    yield "chosen: each half of the words at the layer that is best for the other; any layer is an oracle"
    yield f"intervals: 95%, bootstrap over words ({RESAMPLES:,} resamples)"
