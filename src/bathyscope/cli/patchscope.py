"""`bathyscope patchscope`: the layers and positions of one text, as a table, JSON or a page."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import bathyscope
from bathyscope.cli import choices, mapping_choice, options, terminal
from bathyscope.cli.opening import open_model, opened
from bathyscope.cli.showing import show_or_save
from bathyscope.cli.stopping import stoppable

if TYPE_CHECKING:
    from bathyscope import PatchscopeResult, Source, Target


def command(
    text: options.Text,
    *,
    at: options.At = "last",
    layers: options.Layers = None,
    prompt: options.PromptName = None,
    own_prompt: options.OwnPrompt = None,
    placeholder: options.Placeholder = None,
    chat: options.Chat = None,
    target_layer: options.TargetLayer = None,
    mapping: options.MappingName = None,
    scale: options.Factor = None,
    new_tokens: options.NewTokens = None,
    next_token: options.NextToken = False,
    top: options.Top = None,
    controls: options.ControlNames = None,
    control_texts: options.ControlTexts = None,
    seed: options.ControlSeed = 0,
    model: options.ModelName = None,
    target_model: options.TargetModel = None,
    revision: options.Revision = None,
    dtype: options.Dtype = None,
    attention: options.Attention = None,
    as_json: options.AsJson = False,
    out: options.Out = None,
    explain: options.Explain = False,
    stored: options.Stored = True,
    memory: options.Memory = None,
    debug: options.Debug = False,
) -> None:
    """Let a model say in words what each of its layers holds of a text.

    The vector at one token of TEXT is read after each layer, and written over
    a placeholder in another prompt. What the model writes next is what that
    vector holds, in words.

    Examples:
      bathyscope patchscope "Diana, Princess of Wales"
      bathyscope patchscope "New York City" --at all --layers 0-10 --new-tokens 8
      bathyscope patchscope "In Paris it rains" --at Paris --text "Capital: x"
      bathyscope patchscope "Alexander the Great" --prompt token-identity --top 5
      bathyscope patchscope "Barack Obama" --layers 3,7 --json --out obama.html
      bathyscope patchscope "New York City" --target-layer all --explain
      bathyscope patchscope "Diana" --target-layer 2 --mapping scale:3
      bathyscope patchscope "New York City" --layers 0-5 --controls random,mean
    """
    del debug  # its callback has done the work
    _check(text, layers, target_layer, out)
    choices.check_revision(revision, model)
    inspection = choices.inspection_prompt(prompt, own_prompt, placeholder, chat)
    chosen_mapping, chosen_readout = (
        mapping_choice.mapping(mapping, scale),
        choices.readout(new_tokens, next_token, top),
    )
    chosen_controls = choices.controls(controls, control_texts, seed)

    shown = terminal.may_animate(as_json=as_json)
    source_model = open_model(model, revision=revision, dtype=dtype, attention=attention, shown=shown)
    other = None
    if target_model is not None and target_model != model:
        other = open_model(target_model, dtype=dtype, attention=attention, shown=shown)
    read, written = mapping_choice.layers_for(
        chosen_mapping, (source_model, other or source_model), layers, target_layer
    )
    asked = (
        bathyscope.Source(source_model, text, position=choices.position(at), layer=read),
        bathyscope.Target(other, inspection, layer=written),
    )
    chosen = {"mapping": chosen_mapping, "readout": chosen_readout, "controls": chosen_controls}
    chosen["budget"] = (memory or 2048) * 2**20
    if explain:
        terminal.note_lines(bathyscope.plan_patchscope(*asked, **chosen).explain())
    result = _run(asked, chosen, per_cell=chosen_readout.n_passes, stored=stored, shown=shown)
    show_or_save(result, as_json=as_json, out=out)


def _run(
    asked: "tuple[Source, Target]", chosen: dict[str, Any], *, per_cell: int, stored: bool, shown: bool
) -> "PatchscopeResult":
    with (
        opened(stored=stored) as store,
        terminal.progress("reading and writing", shown=shown, per_cell=per_cell) as tick,
        stoppable() as stop,
    ):
        return bathyscope.patchscope(*asked, **chosen, store=store, progress=tick, stop=stop)


def _check(text: str, layers: str | None, target_layer: str | None, out: Path | None) -> None:
    """Refuse what no model could do."""
    choices.check_text(text)
    choices.check_layers(layers or "all", "--layers")
    if target_layer not in (None, "same", "below"):
        choices.check_layers(target_layer, "--target-layer")
    if out is not None:
        choices.check_out(out, ".json", ".html")
        choices.check_writable(out.parent)
