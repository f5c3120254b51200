"""What the web server is started with in tests: a circuit of the small agreement model, its coders, and features."""

from pathlib import Path

from agreement_model import agreement_model, coders
from bathyscope.circuits import FindChoices, find_circuit, read_examples
from bathyscope.cli.served_files import ServedFiles
from bathyscope.facts import agreement_pairs, agreement_sentences, write_agreement
from bathyscope.sae import LatentReadings, SparseCoder, read_latents, save_coder
from bathyscope.sae.reading import Description
from bathyscope.texts import given_texts
from bathyscope.web.models import Models
from conftest import tiny_model

AGREEMENT = "agreement"
PATHS = {AGREEMENT: "./agreement", "tiny": "./tiny"}


def readings(coder: SparseCoder) -> LatentReadings:
    """What the agreement sentences say of a coder's latents; one is described, and one description says nothing."""
    sentences = agreement_sentences(n=800)
    documents = [" ".join(sentences[first : first + 40]) for first in range(0, 800, 40)]
    found = read_latents(agreement_model(), coder, given_texts(documents), n_tokens=4000, length=32)
    first, second = found.order()[:2]
    said = {first: Description(" many things", 1, 4.0, 0.9, 0.2, 9), second: Description("x", 1, 4.0, 0.1, 0.2, 9)}
    return found.with_descriptions(said)


def save_files(folder: Path) -> dict[str, Path]:
    """Coders, a circuit that was found with them, and what a text says of the second, by what they are."""
    paths = {
        "coders": folder / "coders",
        "circuit": folder / "verb agreement.json",
        "features": folder / "features.json",
    }
    made = coders()
    for one in made:
        save_coder(one, paths["coders"] / str(one.site))
    paths["coder"] = paths["coders"] / str(made[1].site)
    write_agreement(agreement_pairs("nounpp", nouns="train", n=32), folder / "train.jsonl")
    model = agreement_model()
    choices = FindChoices(errors="ablated", sizes=(5, 12), penalties=(), steps=2)
    placed = {paths["coders"] / str(one.site): one for one in made}
    find_circuit(model, read_examples(model, folder / "train.jsonl"), placed, choices).save(paths["circuit"])
    readings(made[1]).save(paths["features"])
    return paths


def served(paths: dict[str, Path]) -> Models:
    """The models and these files, as `bathyscope serve` opens them."""
    files = ServedFiles([paths["circuit"]], None, [str(paths["coder"])], [paths["features"]])
    loaded = {"tiny": tiny_model(), AGREEMENT: agreement_model()}
    return Models(loaded, PATHS, circuits=files.circuits(loaded), coders=files.coders(loaded))
