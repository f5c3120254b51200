"""Labels: what a text says of a circuit's latents, in words that have a score, and beside it the score of controls.

Knows which latents to ask of, and what of the answers a node keeps; how they are found is for `sae.reading`.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from bathyscope.circuits.circuit_result import CircuitResult
from bathyscope.circuits.finding import Say
from bathyscope.circuits.kept import Kept
from bathyscope.circuits.nodes import Node
from bathyscope.circuits.placing import coder_site
from bathyscope.engine import CancelledError, Stop
from bathyscope.errors import UsageError
from bathyscope.model import Model
from bathyscope.sae import SparseCoder
from bathyscope.sae.reading import Description, LatentReading, describe_latents, read_latents
from bathyscope.sae.reading.directions import writes_residual
from bathyscope.texts import Texts

N_TOKENS: Final = 50_000
"""Tokens that are read for each site, unless said."""
LENGTH: Final = 128
"""Tokens of a window, unless said."""
EXAMPLES: Final = 5
"""Examples that are kept of each latent."""


def label_circuit(  # noqa: PLR0913 (what is labelled, with what, and how it is run)
    model: Model,
    result: CircuitResult,
    coders: Mapping[Path, SparseCoder],
    texts: Texts,
    *,
    n_tokens: int = N_TOKENS,
    length: int = LENGTH,
    describe: bool = True,
    seed: int = 0,
    kept: Path | None = None,
    say: Say | None = None,
    stop: Stop | None = None,
) -> CircuitResult:
    """Put the latents of a circuit into words.

    Each site's latents are read in one pass over the text (`read_latents`): a rule that is chosen on every other
    document and measured on the others, the tokens that they promote, and where they are most active for the length of
    what they read. A node's label is the rule where that is right enough, else promoted tokens; what the model says of
    a latent (`describe_latents`) stands beside it with its controls, and is no label. A label that a person gave
    stays. Errors, and features that are no latents, stay as they are.

    Args:
        model: the model that the circuit was found in.
        result: the circuit.
        coders: those that it was found with, at least of the sites of its latents.
        texts: what is read; at least two documents.
        n_tokens: at most so many tokens of it, for each site.
        length: tokens of a window, as far as the model has positions; documents of less than half of it are left out.
        describe: whether the model describes latents in its own words, too.
        seed: of controls.
        kept: a folder for sites that are finished; the same request goes on from there.
        say: called with each part of the work as it begins.
        stop: looked at between blocks of text and at every decoding step.

    Returns:
        The circuit with `Node.reading` of each latent and labels; readings hold JSON values.

    Raises:
        UsageError: a coder is missing or is not the circuit's, another model, or texts that are too short.
        CancelledError: `stop` said so; sites that are finished are kept.

    Example:
        >>> import json, pathlib, tempfile, bathyscope, torch
        >>> from bathyscope import Site
        >>> from bathyscope.circuits import FindChoices, find_circuit, label_circuit, read_examples
        >>> from bathyscope.sae import KeepTop, SparseCoder
        >>> from bathyscope.texts import given_texts
        >>> model, path = bathyscope.load(), pathlib.Path(tempfile.mkdtemp()) / "pairs.jsonl"
        >>> pair = {"clean": "The boats", "corrupted": "The boat", "answer": " they", "wrong_answer": " it"}
        >>> _ = path.write_text(json.dumps(pair))
        >>> eye, zeros, site = torch.eye(model.d_model), torch.zeros(model.d_model), Site("resid_post", 20)
        >>> coder = SparseCoder(eye, zeros, eye, zeros, KeepTop(300), site=site, target=site)
        >>> coders = {pathlib.Path("eye"): coder}
        >>> choices = FindChoices(nodes=3, errors="ablated", penalties=(), steps=2)
        >>> found = find_circuit(model, read_examples(model, path), coders, choices)
        >>> texts = given_texts(["The boats go out in the morning and come back.", "The cat looks at the water."] * 4)
        >>> found = label_circuit(model, found, coders, texts, length=8, describe=False)
        >>> sorted(set(found.nodes[0].reading) & {"rule", "f1", "control_f1"})
        ['control_f1', 'f1', 'rule']
    """
    began = time.perf_counter()
    asked = {
        "text": texts.describe(),
        "n_tokens": n_tokens,
        "length": min(length, model.max_length or length),
        "n_examples": EXAMPLES,
        "describe": describe,
        "seed": seed,
    }
    reader = _Reader(model, texts, asked, say or (lambda _: None), stop or Stop())
    readings: dict[str, dict[str, Any]] = {}
    for site, (coder, latents) in _wanted(model, result, coders).items():
        own = {**model.provenance(), "fingerprint": model.fingerprint}
        parts = Kept(kept, {**asked, "model": own, "coder": coder.fingerprint, "latents": latents})
        try:
            readings[site] = parts.record(site, partial(reader.read, coder, latents))
        except CancelledError as error:
            if kept is None:
                raise
            raise CancelledError("labelling was stopped", "the same request goes on after the last site") from error
    seconds = round(time.perf_counter() - began, 4)
    return replace(
        result,
        nodes=tuple(_labelled(one, readings.get(one.feature.site, {})) for one in result.nodes),
        provenance={**result.provenance, "labels": asked},
        timing={**result.timing, "labels": seconds},
    )


@dataclass(frozen=True)
class _Reader:
    """What all sites are read with."""

    model: Model
    texts: Texts
    asked: Mapping[str, Any]
    say: Say
    stop: Stop

    def read(self, coder: SparseCoder, latents: list[int]) -> dict[str, Any]:
        """What the text says of some latents of one site, by number."""
        asked = self.asked
        found = read_latents(
            self.model,
            coder,
            self.texts,
            n_tokens=asked["n_tokens"],
            length=asked["length"],
            n_examples=asked["n_examples"],
            latents=latents,
            seed=asked["seed"],
            progress=self.say(f"reading at {coder.site}"),
            stop=self.stop,
        )
        if asked["describe"] and writes_residual(coder, self.model):
            progress = self.say(f"describing latents at {coder.site}")
            found = describe_latents(
                self.model, coder, found, latents, seed=asked["seed"], progress=progress, stop=self.stop
            )
        return {str(one): _reading(found[one]) for one in latents}


def _wanted(
    model: Model, result: CircuitResult, coders: Mapping[Path, SparseCoder]
) -> dict[str, tuple[SparseCoder, list[int]]]:
    """The coder of each site, and the circuit's latents there, whatever their positions."""
    given = {_site(model, result, coder): (path, coder) for path, coder in coders.items()}
    found = {}
    for site, record in result.coders.items():
        features = [one.feature for one in result.nodes]
        latents = sorted({one.index for one in features if one.site == site and one.index is not None})
        if not latents:
            continue
        path, coder = given.get(site, (None, None))
        if coder is None:
            raise UsageError(
                f"coders of {', '.join(given) or 'no site'} were given",
                f"the circuit has latents at {site}",
                f"the coder in {record['path']}",
            )
        if coder.fingerprint != record["fingerprint"]:
            raise UsageError(
                f"the coder in {path} was given for {site}, with other weights than the circuit's",
                f"latents of {record['fingerprint'][:12]} are to be labelled, not of {coder.fingerprint[:12]}",
                f"the coder in {record['path']}",
            )
        found[site] = coder, latents
    return found


def _site(model: Model, result: CircuitResult, coder: SparseCoder) -> str:
    try:
        return str(coder_site(model, coder))
    except UsageError as error:
        if coder.target is None:  # it does not say where it belongs, whatever the model
            raise
        name = result.provenance["models"][0]["model"]
        raise UsageError(error.given, error.expected, f"the model that the circuit was found in: {name}") from error


def _labelled(node: Node, readings: dict[str, Any]) -> Node:
    reading = readings.get(str(node.feature.index))
    if reading is None:
        return node
    return replace(node, reading=reading, label=node.label if node.has_own_label else reading["label"])


def _reading(read: LatentReading) -> dict[str, Any]:
    """What a node keeps of a latent, as JSON values."""
    found: dict[str, Any] = {"label": read.label, "label_from": read.label_from, "density": read.density}
    if read.rule is not None:
        held_out = read.rule.held_out
        found |= {"rule": read.rule_words, "precision": held_out.precision, "recall": held_out.recall}
        found |= {"f1": held_out.f1, "control_f1": read.rule.control_f1, "held_out_active": held_out.active}
    for name, weights in (("promoted", read.promoted), ("suppressed", read.suppressed)):
        found[name] = [[one.token, one.weight] for one in weights]
    found["examples"] = [
        {"tokens": list(one.tokens), "activations": list(one.activations), "peak": one.peak} for one in read.examples
    ]
    return {**found, "description": read.description and _described(read.description)}


def _described(one: Description) -> dict[str, Any]:
    return {**asdict(one), "says_something": one.says_something}
