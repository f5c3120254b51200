"""`bathyscope patch`: activation patching between two prompts, as heat maps, JSON or a page."""

from bathyscope.cli import choices, effects, options, terminal
from bathyscope.cli.opening import open_model
from bathyscope.cli.options import causal


def command(
    clean: causal.Clean,
    corrupted: causal.Corrupted,
    *,
    answer: causal.Answer = None,
    wrong_answer: causal.WrongAnswer = None,
    site: causal.SiteNames = None,
    layers: options.Layers = None,
    at: causal.Positions = "all",
    together: causal.Together = False,
    heads: causal.Heads = False,
    window: causal.Window = 1,
    direction: causal.Direction = "denoising",
    model: options.ModelName = None,
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
    """Find where a run holds what its answer depends on.

    Writes what the clean run holds at a place into the corrupted run, place by
    place. An effect of 0 changes nothing; 1 brings the whole answer back.

    Examples:
      bathyscope patch "The boats near the cabinet" "The boat near the cabinet" --answer are --wrong-answer is
      bathyscope patch "The boats" "The boat" --answer are --wrong-answer is --site attn_out --site mlp_out
      bathyscope patch "The boats" "The boat" --answer are --wrong-answer is --site z --heads --at last
      bathyscope patch "The boats" "The boat" --answer are --wrong-answer is --direction noising --out map.html
    """
    del debug  # its callback has done the work
    effects.check((clean, corrupted), (answer, wrong_answer), layers, revision, model, out)
    from bathyscope.causal import activation_patching
    from bathyscope.causal.places import check_components

    components = check_components(site or "resid_post", heads=heads)  # told before a model is waited for
    read = open_model(
        model, revision=revision, dtype=dtype, attention=attention, shown=terminal.may_animate(as_json=as_json)
    )
    effects.run(
        activation_patching,
        read,
        clean,
        corrupted,
        measured=effects.measured(read, clean, answer, wrong_answer, probability=False),
        name="patching",
        as_json=as_json,
        out=out,
        explain=explain,
        stored=stored,
        memory=memory,
        component=components,
        layers=layers or "all",
        position=choices.position(at),
        together=together,
        heads=heads,
        window=window,
        direction=direction,
    )
