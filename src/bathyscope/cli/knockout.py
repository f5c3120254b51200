"""`bathyscope knockout`: attention edges cut, and what the answer loses, as a heat map, JSON or a page."""

from bathyscope.cli import choices, effects, options, terminal
from bathyscope.cli.opening import open_model
from bathyscope.cli.options import causal


def command(
    prompt: causal.Prompt,
    *,
    answer: causal.Answer = None,
    queries: causal.Queries = "last",
    keys: causal.Keys = None,
    layers: causal.Blocks = None,
    heads: causal.Heads = False,
    window: causal.Window = 9,
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
    """Cut attention and see what the answer loses.

    The last token may not look at a token, or at several, in a window of layers.
    An effect is the change of the answer's probability as a share of it: -1 is
    all of it. The cut is made in the attention mask, under any attention.

    Examples:
      bathyscope knockout "The capital of France is" --answer Paris
      bathyscope knockout "The capital of France is" --answer Paris --keys France --window 5
      bathyscope knockout "The capital of France is" --answer Paris --keys France --heads --window 1
      bathyscope knockout "The capital of France is" --queries France --keys capital --json
    """
    del debug  # its callback has done the work
    effects.check((prompt,), (answer,), layers, revision, model, out)
    read = open_model(
        model, revision=revision, dtype=dtype, attention=attention, shown=terminal.may_animate(as_json=as_json)
    )
    from bathyscope.causal import attention_knockout

    effects.run(
        attention_knockout,
        read,
        prompt,
        measured=effects.measured(read, prompt, answer, None, probability=True),
        name="cutting",
        as_json=as_json,
        out=out,
        explain=explain,
        stored=stored,
        memory=memory,
        queries=choices.position(queries),
        keys={text: choices.position(text) for text in keys} if keys else "each",
        layers=layers or "all",
        heads=heads,
        window=window,
    )
