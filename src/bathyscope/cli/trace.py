"""`bathyscope trace`: causal tracing of one prompt, as heat maps, JSON or a page."""

from bathyscope.cli import choices, effects, options, terminal
from bathyscope.cli.opening import open_model
from bathyscope.cli.options import causal


def command(
    prompt: causal.Prompt,
    *,
    subject: causal.Subject,
    answer: causal.Answer = None,
    site: causal.SiteNames = None,
    layers: options.Layers = None,
    at: causal.Positions = "all",
    window: causal.Window = 10,
    noise: causal.NoiseText = "s3",
    samples: causal.Samples = 10,
    seed: causal.NoiseSeed = 1,
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
    """Trace where a model recalls what it says of a subject.

    Noise on the subject's embeddings takes the answer away; what the clean run
    holds is put back, place by place. An effect is the probability that this
    gives back to the answer. Attention and MLP outputs are put back in windows
    of layers, the residual stream after one block at a time.

    Examples:
      bathyscope trace "The capital of France is" --subject France --answer Paris
      bathyscope trace "The capital of France is" --subject France --site resid_post --samples 3
      bathyscope trace "The capital of France is" --subject France --noise 0.1 --window 5 --out trace.html
      bathyscope trace "The capital of France is" --subject France --explain --json
    """
    del debug  # its callback has done the work
    effects.check((prompt,), (answer,), layers, revision, model, out)
    from bathyscope.causal import NoiseRule, causal_tracing
    from bathyscope.causal.places import check_components
    from bathyscope.causal.tracing import COMPONENTS

    rule = NoiseRule.parse(noise)  # a bad one is told before a model is waited for
    components = check_components(site or COMPONENTS)
    read = open_model(
        model, revision=revision, dtype=dtype, attention=attention, shown=terminal.may_animate(as_json=as_json)
    )
    effects.run(
        causal_tracing,
        read,
        prompt,
        subject,
        measured=effects.measured(read, prompt, answer, None, probability=True),
        name="tracing",
        as_json=as_json,
        out=out,
        explain=explain,
        stored=stored,
        memory=memory,
        component=components,
        layers=layers or "all",
        position=choices.position(at),
        window=window,
        noise=rule,
        samples=samples,
        seed=seed,
    )
