"""Part (e): the logit lens over a text, every layer and token, the ten likeliest tokens with probabilities.

Its floor is what no lens can do without: one pass through the blocks, and the vocabulary product of every row.
"""

import torch
from measure import Check, Part, Row, Settings, clock, cold_and_warm, median, ratio, say

import bathyscope
from bathyscope import LensResult, Model, lenses
from bathyscope.model import Tokens
from bathyscope.readouts.base import ROWS
from bathyscope.sites import residual_site

BEST = 10
LENGTH = 128
TEXT = """The bathyscaphe Trieste went down to the deepest place of the ocean in January 1960. Two people sat in a
steel sphere below a float that was filled with petrol, because petrol is lighter than water and can hardly be
compressed. The descent took almost five hours. At a depth of nine thousand metres one of the outer windows
cracked, and the whole vessel shook. They went on, and at the bottom they switched on the lamps and saw a flat
plain of pale mud that rose in a cloud around them, so that nothing else could be seen and no photograph was taken.
After twenty minutes they let go of their ballast of iron shot and rose again to the surface, where two ships of
the navy were waiting for them."""


def measure(settings: Settings) -> Part:
    """Run all of it."""
    say("lens")
    model = bathyscope.load(settings.folder, dtype=torch.float32)
    whole = model.tokenize(TEXT)
    length = 8 if settings.quick else LENGTH
    tokens = Tokens("", whole.ids[:length], whole.texts[:length])
    if len(tokens) != length:
        raise ValueError(f"the text has {len(tokens)} tokens, fewer than {length}")
    layers = tuple(range(-1, model.n_layers))
    part = Part(
        f"(e) Logit lens on {settings.folder.name}: {len(layers)} layers x {length} tokens, best {BEST}, float32"
    )
    found, cold, warm = cold_and_warm("lens", lambda: lenses.logit_lens(model, tokens, k=BEST), settings.repeats)
    forward, product = zip(*(_floor(model, tokens, len(layers)) for _ in range(1 + settings.repeats)), strict=True)
    floors = tuple(one + other for one, other in zip(forward[1:], product[1:], strict=True))
    times = median(warm) / median(floors)
    wrong, apart = _compared(model, tokens, layers, found)
    rows = len(layers) * length
    part.rows += [
        Row("lens", warm, cold, times, "floor (slower)", f"{rows:,} rows in chunks of {ROWS}"),
        Row("floor", floors, note="one pass through the blocks and the product of every row with the vocabulary"),
        Row("  the pass alone", forward[1:]),
        Row(
            "  the product alone",
            product[1:],
            note=f"{_operations(model, rows) / median(product[1:]) / 1e9:,.0f} GFLOP/s",
        ),
    ]
    part.checks += [
        Check("times the floor", times, 1.5, at_least=False),
        Check(
            "tokens that differ from a softmax over all logits at once, ties aside",
            wrong,
            0,
            at_least=False,
            timed=False,
        ),
        Check("largest difference of a probability from it", apart, 1e-4, at_least=False, timed=False),
    ]
    part.details |= {"rows": rows, "chunk": ROWS, "ratio": ratio(median(warm), median(floors))}
    return part


def _floor(model: Model, tokens: Tokens, n_layers: int) -> tuple[float, float]:
    """Seconds of one pass through the blocks, and of the vocabulary products alone in the lens's own chunks."""
    ids = torch.tensor([tokens.ids])
    unembedding = model.hf.get_output_embeddings().weight
    rows = torch.randn(n_layers * len(tokens), model.d_model)
    out = torch.empty(ROWS, len(unembedding))

    def products() -> None:
        for first in range(0, len(rows), ROWS):
            part = rows[first : first + ROWS]
            torch.mm(part, unembedding.t(), out=out[: len(part)])

    with torch.no_grad():
        _, forward = clock(lambda: model.hf.base_model(input_ids=ids, use_cache=False))
        _, product = clock(products)
    return forward, product


def _operations(model: Model, rows: int) -> int:
    return 2 * rows * model.d_model * model.vocabulary


def _compared(model: Model, tokens: Tokens, layers: tuple[int, ...], lens: LensResult) -> tuple[int, float]:
    """How many tokens a plain softmax would not name, ties aside, and how far probabilities are off."""
    states = bathyscope.capture(model, tokens, [residual_site(layer) for layer in layers])
    found = {(cell.layer, cell.position): cell.candidates for cell in lens.cells}
    wrong, apart = 0, 0.0
    with torch.no_grad():
        for layer in layers:
            plain = model.unembed(states[residual_site(layer)][0]).softmax(-1)
            values, ids = plain.topk(BEST)
            best = [found[layer, position] for position in range(len(tokens))]
            said = torch.tensor([[one.id for one in candidates] for candidates in best])
            told = torch.tensor([[one.probability for one in candidates] for candidates in best])
            apart = max(apart, float((values - told).abs().max()))
            wrong += int(((ids != said) & ((values - plain.gather(-1, said)).abs() > 1e-5 * values)).sum())
    return wrong, apart
