"""`bathyscope lens`: a text through one lens, as a heat map, JSON or a page."""

from typing import Any

import bathyscope
from bathyscope.cli import choices, lenses, mapping_choice, options, terminal
from bathyscope.cli.opening import open_model, opened
from bathyscope.cli.showing import show_or_save
from bathyscope.cli.stopping import stoppable


def command(
    name: options.LensName,
    text: options.LensText,
    *,
    at: options.LensAt = None,
    layers: options.Layers = None,
    top: options.LensTop = None,
    mapping: options.Fitted = None,
    to: options.To = None,
    ahead: options.Ahead = None,
    new_tokens: options.SelfieTokens = None,
    token: options.Token = None,
    units: options.Units = None,
    suppressed: options.Suppressed = False,
    model: options.ModelName = None,
    revision: options.Revision = None,
    dtype: options.Dtype = None,
    attention: options.Attention = None,
    as_json: options.AsJson = False,
    out: options.Out = None,
    explain: options.Explain = False,
    stored: options.Stored = False,
    memory: options.Memory = None,
    debug: options.Debug = False,
) -> None:
    """Look at a text through a lens: what each layer holds at each token.

    Draws a heat map: layers upwards, tokens across, and in each cell the
    likeliest token and its probability, which colours it.

    Lenses:
      logit-lens        what the model would say next, were that layer its last
      tuned-lens        what the model would say next, by a trained translation
      jacobian-lens     what that layer moves the model to say, on average
      linear-shortcut   what the model says after a linear jump from that layer
      attribute-lens    what a relation makes of the token, by that layer
      future-lens       what the model will say several tokens on
      token-identity    the token that the model repeats when shown the vector
      bare-placeholder  what the model says next when shown the vector alone
      selfie            what the model says of the vector, asked in words
      embedding-space   tokens that a neuron, or a head's unit, promotes
      backward-lens     what a push towards a next token would write there

    Examples:
      bathyscope lens logit-lens "The capital of France is"
      bathyscope lens logit "The capital of France is" --at last --top 3 --explain
      bathyscope lens token-identity "New York City" --layers 0-10 --json
      bathyscope lens tuned-lens "New York City" --mapping tuned.safetensors
      bathyscope lens selfie "Barack Obama" --at last --new-tokens 8
      bathyscope lens embedding-space mlp_post.2 --units 0-3
      bathyscope lens backward-lens "The capital of France is" --out push.html
    """
    del debug  # its callback has done the work
    given = {"at": at, "layers": layers, "top": top, "mapping": mapping, "to": to, "ahead": ahead}
    given |= {"new_tokens": new_tokens, "token": token, "units": units, "suppressed": suppressed or None}
    given |= {"explain": explain or None, "store": stored or None, "memory": memory}
    lens = lenses.checked(name, {option for option, value in given.items() if value is not None}, model)
    choices.check_text(text)
    choices.check_revision(revision, model)
    if out is not None:
        choices.check_out(out, ".json", ".html")
        choices.check_writable(out.parent)
    arguments = _arguments(lens, given)

    shown = terminal.may_animate(as_json=as_json)
    source = open_model(model, revision=revision, dtype=dtype, attention=attention, shown=shown)
    with (
        opened(stored=stored) as store,
        terminal.progress(name, shown=shown, per_cell=max(1, new_tokens or ahead or 1)) as tick,
        stoppable() as stop,
    ):
        if mapping is not None and mapping.suffix == ".pt":
            arguments["mapping"] = mapping_choice.published(mapping, source)
        if "store" in lens.takes:
            arguments |= {"store": store, "progress": tick, "stop": stop}
        result = getattr(bathyscope.lenses, lens.function)(source, text, **arguments)
    show_or_save(result, as_json=as_json, out=out)


def _arguments(lens: lenses.Lens, given: dict[str, Any]) -> dict[str, Any]:
    """What the lens's function is called with, from what was typed."""
    taken = {lenses.KEYWORDS[option]: given[option] for option in lenses.KEYWORDS if given[option] is not None}
    if given["at"] is not None:
        taken["position"] = choices.position(given["at"])
    if given["layers"] is not None:
        choices.check_layers(given["layers"], "--layers")
        taken["layer"] = given["layers"]
    if given["units"] is not None:
        taken["units"] = choices.numbers(given["units"], "--units")
    if given["memory"] is not None:
        taken["budget"] = given["memory"] * 2**20
    if given["mapping"] is not None and given["mapping"].suffix != ".pt":
        path, ahead = given["mapping"], given["ahead"]
        fitted = mapping_choice.load_any(path, ahead=ahead) if lens.soft else mapping_choice.load(path)
        taken[lens.mapping_as] = fitted
        if given["layers"] is None:
            taken |= mapping_choice.lens_layers(fitted, given["to"])
    if given["explain"]:
        taken["planned"] = lambda plan: terminal.note_lines(plan.explain())
    return taken
