"""`bathyscope serve`: the web app on this machine, for the models that are named."""

import typer

from bathyscope.cli import options, terminal
from bathyscope.cli.opening import open_model
from bathyscope.cli.options.serve import (
    CircuitCoders,
    Circuits,
    Coders,
    Features,
    Mappings,
    NoBrowser,
    Port,
    ServedModels,
)
from bathyscope.embedded import EMBEDDED_NAME
from bathyscope.errors import UsageError


def command(
    *,
    model: ServedModels = None,
    circuit: Circuits = None,
    coders: CircuitCoders = None,
    coder: Coders = None,
    features: Features = None,
    mapping: Mappings = None,
    port: Port = 0,
    no_browser: NoBrowser = False,
    dtype: options.Dtype = None,
    attention: options.Attention = None,
    debug: options.Debug = False,
) -> None:
    """Open the web app: look at what the layers of a model hold, in a browser.

    Prints the address that opens it, once, and serves until Ctrl-C. Nobody but
    this machine can reach it, and it fetches nothing.

    Examples:
      bathyscope serve
      bathyscope serve --model gpt2 --port 8000 --no-browser
      bathyscope serve --circuit circuit.json
      bathyscope serve --coder coders/resid_post.8
      bathyscope serve --mapping tuned.safetensors
    """
    del debug  # its callback has done the work
    try:
        from bathyscope.web.assets import assets
        from bathyscope.web.server import WebServer
    except ImportError:
        raise UsageError("the web app needs FastAPI and uvicorn", "an extra", 'pip install "bathyscope[web]"') from None
    from bathyscope.cli.served_files import ServedFiles
    from bathyscope.store import Store
    from bathyscope.web.models import Models

    files = assets()  # what is missing is told before a model is waited for
    opened = ServedFiles(circuit, coders, coder, features, mapping)
    asked = [None if name == EMBEDDED_NAME else name for name in (model or opened.models())]
    named = {name or EMBEDDED_NAME: name for name in asked}
    shown = terminal.may_animate(as_json=False)
    loaded = {title: open_model(name, dtype=dtype, attention=attention, shown=shown) for title, name in named.items()}
    models = Models(
        loaded,
        named,
        circuits=opened.circuits(loaded),
        coders=opened.coders(loaded),
        mappings=opened.mappings(loaded),
    )

    with Store() as store:
        server = WebServer(models, store, port=port, files=files)

        def started() -> None:
            typer.echo(server.access.link())
            if not no_browser:
                typer.launch(server.access.link())  # a link of its own: the printed one stays unused

        server.run(started)
