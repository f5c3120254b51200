"""Labels of a circuit: what a text says of its latents, on the small GPT-2 that learned the agreement grammar."""

import json
import re
import signal
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

import command_line
from agreement_model import SITES, agreement_model, coders
from bathyscope import capture, prompts
from bathyscope.circuits import (
    Circuit,
    CircuitResult,
    Feature,
    FindChoices,
    find_circuit,
    label_circuit,
    labels,
    open_circuit,
)
from bathyscope.circuits.nodes import ERROR_LABEL
from bathyscope.circuits.pair_files import Asked, as_examples, checked
from bathyscope.cli import circuit_label
from bathyscope.engine import CancelledError, Stop
from bathyscope.errors import UsageError
from bathyscope.facts import agreement_pairs, agreement_sentences
from bathyscope.results import Result
from bathyscope.sae import SparseCoder, save_coder
from bathyscope.sae.reading import describe_latents, read_latents
from bathyscope.texts import given_texts

bathyscope, home = command_line.bathyscope, command_line.home
"""The fixtures that are used here."""

NOUNS = ("actor", "doctor", "boss", "monk", "pirate")
PLURALS = (" actors", " doctors", " bosses", " monks", " pirates")
READ = {"n_tokens": 4000, "length": 8}


@cache
def sentences() -> tuple[str, ...]:
    """With few nouns: a rule names eight tokens at most."""
    starts = tuple(f"The {noun}{end}" for noun in NOUNS for end in ("s ", "es ", " "))
    simple = (one for one in agreement_sentences(nouns="train", n=6000) if " that " not in one and " the " not in one)
    return tuple(one for one in simple if one.startswith(starts))


def placed() -> dict[Path, SparseCoder]:
    return {Path(str(one.site)): one for one in coders()}


@cache
def circuit() -> CircuitResult:
    """Eight features that were found; one of them at another position besides, and an error."""
    model, drawn = agreement_model(), agreement_pairs("nounpp", nouns="train", n=32)
    kept, left_out = checked(model, [(str(number), one) for number, one in enumerate(drawn)])
    asked = Asked(as_examples(model, kept), tuple(one for one, _ in kept), left_out)
    found = find_circuit(
        model, asked, placed(), FindChoices(nodes=8, sizes=(8,), errors="ablated", penalties=(), steps=4)
    )
    first = found.nodes[0]
    again = replace(first, feature=Feature(first.feature.site, 2, first.feature.index))
    error = replace(first, feature=Feature(SITES[0], 1, None), label=ERROR_LABEL, promotes=(), suppresses=())
    nodes = (*found.nodes, again, error)
    return replace(found, nodes=nodes, circuit=Circuit(found.circuit.sites, [one.feature for one in nodes]))


@cache
def labelled() -> CircuitResult:
    return label_circuit(agreement_model(), circuit(), placed(), given_texts(sentences()), describe=False, **READ)


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt for descriptions that a model of 32 positions has room for."""
    monkeypatch.setattr(prompts, "entity_description", lambda: prompts.custom("The doctor", "doctor"))


def latents_at(site: str) -> list[int]:
    here = [one.feature for one in circuit().nodes if one.feature.site == site]
    return sorted({one.index for one in here if one.index is not None})


def described() -> CircuitResult:
    return label_circuit(agreement_model(), circuit(), placed(), given_texts(sentences()), **READ)


@pytest.mark.parametrize("site", SITES)
def test_readings_are_those_of_read_latents(brief, site: str):
    model, coder, chosen, texts = agreement_model(), placed()[Path(site)], latents_at(site), given_texts(sentences())
    read = read_latents(model, coder, texts, n_examples=labels.EXAMPLES, latents=chosen, **READ)
    read = describe_latents(model, coder, read, chosen)
    found = {one.feature.index: one for one in described().nodes if one.feature.site == site}
    for latent in chosen:
        one, node = read[latent], found[latent]
        assert node.label == one.label == node.reading["label"] and node.reading["label_from"] == one.label_from
        assert node.reading["density"] == one.density and one.rule and node.reading["rule"] == one.rule_words
        held_out = one.rule.held_out
        assert (node.reading["precision"], node.reading["recall"]) == (held_out.precision, held_out.recall)
        assert (node.reading["f1"], node.reading["control_f1"]) == (held_out.f1, one.rule.control_f1)
        assert node.reading["promoted"] == [[token.token, token.weight] for token in one.promoted]
        assert [example["peak"] for example in node.reading["examples"]] == [example.peak for example in one.examples]
        assert node.reading["examples"][0]["tokens"] == list(one.examples[0].tokens)
        told = node.reading["description"]
        assert one.description and told["score"] == one.description.score
        assert (told["control"], told["n_controls"]) == (one.description.control, 9 + len(chosen) - 1)
        assert told["says_something"] == (told["score"] > told["control"])


def test_a_latent_of_plural_nouns_says_so_far_above_its_control():
    """Which latent that is, is found without rules: the one whose activity agrees best with plurals."""
    model = agreement_model()
    tokens = [token for one in sentences() for token in model.tokenize(one).texts[1:]]
    plural, best = torch.tensor([one in PLURALS for one in tokens]), (0.0, "", -1)
    read = capture(model, list(sentences()), list(SITES))
    for site in SITES:
        rows = torch.cat([row[1:] for row in read[site]])
        active = placed()[Path(site)].encode(rows).dense() > 0
        for latent in latents_at(site):
            hits = int((active[:, latent] & plural).sum())
            best = max(best, (2 * hits / int(active[:, latent].sum() + plural.sum()), site, latent))
    (node, *_) = [one for one in labelled().nodes if (one.feature.site, one.feature.index) == best[1:]]
    assert best[0] > 0.7 and node.reading["label_from"] == "rule"
    assert node.reading["f1"] > 0.7 and node.reading["f1"] > node.reading["control_f1"] + 0.4
    assert sum(f'"{word}"' in node.label for word in PLURALS) >= 4


def test_a_description_is_never_the_label(brief):
    for one, plain in zip(described().nodes, labelled().nodes, strict=True):
        assert one.label == plain.label
        if one.feature.index is not None:
            assert one.reading["description"]["text"] != one.label and plain.reading["description"] is None
            assert one.reading["label_from"] in ("rule", "promoted tokens")


def test_a_model_without_room_for_descriptions_says_so():
    with pytest.raises(UsageError, match="has 32 positions"):
        described()


def test_errors_stay_and_a_latent_is_read_once_whatever_its_positions(monkeypatch: pytest.MonkeyPatch):
    asked: list[list[int]] = []

    def counted(*args, latents, **options):
        asked.append(latents)
        return read_latents(*args, latents=latents, **options)

    monkeypatch.setattr(labels, "read_latents", counted)
    texts = given_texts(sentences())
    found = label_circuit(agreement_model(), circuit(), placed(), texts, describe=False, **READ)
    assert sorted(asked) == sorted(filter(None, map(latents_at, SITES)))
    *_, again, error = found.nodes
    assert error == circuit().nodes[-1] and not error.reading
    assert again.reading == found.nodes[0].reading and again.reading
    assert found.provenance["labels"]["n_tokens"] == 4000 and found.edges == circuit().edges


def test_a_persons_own_label_stays_and_one_of_tokens_does_not():
    name = str(circuit().nodes[0].feature)
    own = circuit().named({name: "plural subject"})
    texts = given_texts(sentences())
    for before in (own, labelled().named({name: "plural subject"})):
        found = label_circuit(agreement_model(), before, placed(), texts, describe=False, **READ)
        assert found.nodes[0].label == "plural subject" and found.nodes[0].has_own_label
        assert found.nodes[0].reading == labelled().nodes[0].reading
        assert [one.label for one in found.nodes[1:]] == [one.label for one in labelled().nodes[1:]]
    assert not any(one.has_own_label for one in (*circuit().nodes, *labelled().nodes))


def test_what_was_stopped_goes_on(tmp_path, monkeypatch: pytest.MonkeyPatch):
    stop, asked = Stop(), []

    def say(what: str):
        asked.append(what)
        stop.soon = len(asked) == 2

    def go() -> CircuitResult:
        texts = given_texts(sentences())
        options = {"describe": False, "kept": tmp_path, "say": say, "stop": stop, **READ}
        return label_circuit(agreement_model(), circuit(), placed(), texts, **options)

    with pytest.raises(CancelledError, match="goes on after the last site"):
        go()
    stop.soon = False
    found = go()
    assert asked == [f"reading at {site}" for site in (SITES[0], SITES[1], SITES[1])]
    assert found.rows() == labelled().rows()


def test_readings_survive_a_file(tmp_path):
    again = open_circuit(labelled().save(tmp_path / "circuit.json"))
    assert again.to_dict() == labelled().to_dict()


def test_what_is_not_the_circuits_is_refused():
    model, texts, mine = agreement_model(), given_texts(sentences()), placed()[Path(SITES[0])]
    with pytest.raises(UsageError, match=rf"coders of {SITES[0]} were given.*latents at {SITES[1]}.*Try: the coder in"):
        label_circuit(model, circuit(), {Path("mine"): mine}, texts)
    other = replace(mine, encoder=mine.encoder * 2)
    with pytest.raises(UsageError, match=f"the coder in other was given.*not of {other.fingerprint[:12]}"):
        label_circuit(model, circuit(), {**placed(), Path("other"): other}, texts)
    foreign = replace(mine, model={"model": "somebody's", "fingerprint": "0"})
    with pytest.raises(UsageError, match="somebody's.*Try: the model that the circuit was found in: gpt2-agreement"):
        label_circuit(model, circuit(), {**placed(), Path("foreign"): foreign}, texts)
    with pytest.raises(UsageError, match="one document"):
        label_circuit(model, circuit(), placed(), given_texts([" ".join(sentences())]))


# The command


@pytest.fixture
def folder(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A circuit, its coders and a text, and the small model whatever is asked for."""
    monkeypatch.setattr("bathyscope.cli.circuit_request.open_model", lambda *_args, **_options: agreement_model())
    records = {}
    for site, coder in placed().items():
        place = save_coder(coder, tmp_path / "coders" / str(site))
        records[str(site)] = {"path": str(place), "fingerprint": coder.fingerprint}
    replace(circuit(), coders=records).save(tmp_path / "circuit.json")
    threes = [" ".join(sentences()[first : first + 3]) for first in range(0, len(sentences()), 3)]
    (tmp_path / "news.txt").write_text("\n\n".join(threes))
    return tmp_path


def asking(folder: Path, *more: str) -> tuple[str, ...]:
    return ("circuit", "label", str(folder / "circuit.json"), "--text", str(folder / "news.txt"), *more)


def test_the_command_rewrites_the_file_and_shows_scores_beside_controls(bathyscope, folder, brief):
    first = circuit().nodes[0].feature
    (folder / "circuit.labels.json").write_text(json.dumps({f"{first.site}/{first.index}": "my own words"}))
    done = bathyscope(*asking(folder))
    assert done.code == 0, done.err
    assert f"saved to {folder / 'circuit.json'}" in done.err and not list(folder.glob(".circuit*"))
    found = open_circuit(folder / "circuit.json")
    assert all(one.reading for one in found.nodes[:-1]) and found.nodes[0].label == "my own words"
    one = found.nodes[0].reading
    assert "my own words" in " ".join(done.out.split()) and f"{one['precision']:.2f}" in done.out
    assert f"({one['control_f1']:.2f})" in done.out and f"{one['description']['control']:.2f}" in done.out


def test_the_command_speaks_json_and_writes_elsewhere(bathyscope, folder):
    before, out = (folder / "circuit.json").read_bytes(), folder / "labelled.json"
    moved = (folder / "coders").rename(folder / "moved")
    done = bathyscope(*asking(folder, "--coders", str(moved), "--no-describe", "--out", str(out), "--json"))
    assert done.code == 0, done.err
    assert done.json()["kind"] == "circuit" and done.json() == json.loads(out.read_text("utf-8"))
    assert (folder / "circuit.json").read_bytes() == before


def test_the_examples_of_its_help_run(bathyscope, folder, brief, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    examples = re.findall(r"^ +bathyscope (.+)$", circuit_label.command.__doc__ or "", re.MULTILINE)
    assert len(examples) == 2
    for example in examples:
        done = bathyscope(*example.split())
        assert done.code == 0, done.err
    assert open_circuit("labelled.json").nodes[0].reading["description"] is None


def test_ctrl_c_keeps_the_sites_that_are_finished(bathyscope, folder, monkeypatch: pytest.MonkeyPatch):
    asked = []

    @contextmanager
    def saying(*_: object):
        def say(what: str) -> None:
            asked.append(what)
            if len(asked) == 2:
                signal.raise_signal(signal.SIGINT)

        yield say

    monkeypatch.setattr("bathyscope.cli.circuit_request.saying", saying)
    before = (folder / "circuit.json").read_bytes()
    done = bathyscope(*asking(folder, "--no-describe"))
    assert done.code == 130 and "labelling was stopped" in done.err
    assert (folder / "circuit.json").read_bytes() == before
    assert bathyscope(*asking(folder, "--no-describe")).code == 0
    assert asked == [f"reading at {site}" for site in (SITES[0], SITES[1], SITES[1])]


def test_the_command_refuses_what_it_cannot_label(bathyscope, folder, monkeypatch: pytest.MonkeyPatch):
    save_coder(replace(placed()[Path(SITES[0])], encoder=torch.eye(64)[:1].repeat(256, 1)), folder / "other")
    done = bathyscope(*asking(folder, "--coders", str(folder / "other")))
    assert done.code == 2 and "fingerprint" in done.err and "Try: --coders DIR" in done.err
    done = bathyscope(*asking(folder, "--coders", str(folder / "coders" / SITES[0])))
    assert done.code == 2 and f"no coder of {SITES[1]}" in done.err and "Try: --coders DIR" in done.err
    (folder / "coders").rename(folder / "moved")
    done = bathyscope(*asking(folder))
    assert done.code == 2 and f"coder of {SITES[0]} lay there. Try: --coders DIR" in done.err
    done = bathyscope(*asking(folder, "--out", str(folder / "labelled.txt")))
    assert done.code == 2 and "must end in .json" in done.err
    done = bathyscope("circuit", "label", str(folder / "none.json"), "--text", str(folder / "news.txt"))
    assert done.code == 2 and "none.json" in done.err
    whole = type("Whole", (), {"kind": "agreement", "found": circuit()})()
    monkeypatch.setattr(Result, "load", staticmethod(lambda _path: whole))
    done = bathyscope(*asking(folder))
    assert done.code == 2 and "kind agreement" in done.err and "Try: --out circuit-circuit.json" in done.err
