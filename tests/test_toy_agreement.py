"""The toy of the feature-circuit post: the worked example number by number, identities, training, the picture."""

import html
import itertools
import json
import math
import re
import time
import xml.etree.ElementTree as ET

import pytest
import torch

import command_line
from bathyscope import plots, studies
from bathyscope.errors import UsageError
from bathyscope.results import Result
from bathyscope.sae import KeepAbove, SparseCoder
from bathyscope.studies import ToyAgreementResult, toy_agreement
from bathyscope.studies.toy_agreement_study.building import agreement_graph
from bathyscope.studies.toy_agreement_study.descent import descend
from bathyscope.studies.toy_agreement_study.graph import COLUMNS, ERROR, Graph
from bathyscope.studies.toy_agreement_study.layout import laid_out, overlap
from bathyscope.studies.toy_agreement_study.network import AgreementNetwork
from bathyscope.studies.toy_agreement_study.sentences import NOUNS, best_accuracy, drawn_sentences
from bathyscope.studies.toy_agreement_study.stage import Stage
from bathyscope.studies.toy_agreement_study.worked import CODER, NETWORK

bathyscope = command_line.bathyscope
SINGULAR, PLURAL = torch.eye(2, dtype=torch.float64)
EXACT = {"rel": 1e-9, "abs": 1e-9}


def worked(**choices) -> Graph:
    return agreement_graph(NETWORK, CODER, SINGULAR, PLURAL, **{"steps": 10, **choices})


def random_toy(seed: int, n_latents: int = 7) -> tuple[AgreementNetwork, SparseCoder, torch.Tensor]:
    """Weights and two inputs with no structure at all."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    network = AgreementNetwork(drawn(4, 2), drawn(4), drawn(2, 4), drawn(2))
    keep = KeepAbove(torch.zeros((), dtype=torch.float64))
    coder = SparseCoder(drawn(n_latents, 4), drawn(n_latents), drawn(n_latents, 4), drawn(4), keep)
    return network, coder, drawn(2, 2)


def random_graph(seed: int, **choices) -> Graph:
    network, coder, inputs = random_toy(seed)
    return agreement_graph(network, coder, *inputs, **choices)


@pytest.fixture(scope="module")
def trained() -> ToyAgreementResult:
    return toy_agreement()


# The worked example


def of(graph: Graph, field: str, *names: str) -> list[float]:
    return [getattr(graph.node(name), field) for name in names]


def test_the_worked_runs():
    graph = worked()
    units, latents = ("H0", "H1", "H2", "H3"), ("F0", "F1", "F2")
    assert of(graph, "clean", *units) == [1, 0, 1, 1] and of(graph, "corrupted", *units) == [0, 1, 1, 0]
    assert of(graph, "clean", *latents) == [1, 0, 0.5] and of(graph, "corrupted", *latents) == [0, 1, 0.5]
    assert of(graph, "clean", "runs", "run") == [2.5, -1.5] and of(graph, "corrupted", "runs", "run") == [-0.5, 1.5]
    assert (graph.clean, graph.corrupted, graph.total) == (-4, 2, 6)
    assert (graph.node(ERROR).clean, graph.node(ERROR).corrupted) == (0.5, 0.5)


@pytest.mark.parametrize("field", ["effect", "attribution", "integrated", "closed_form"])
def test_the_worked_effects_of_units_and_latents(field: str):
    graph = worked()
    assert of(graph, field, "H0", "H1", "H2", "H3") == pytest.approx([2, 2, 0, 2], **EXACT)
    assert of(graph, field, "F0", "F1", "F2", ERROR) == pytest.approx([4, 2, 0, 0], **EXACT)
    assert of(graph, field, "runs", "run") == pytest.approx([3, 3], **EXACT)


@pytest.mark.parametrize("field", ["effect", "integrated"])
def test_the_worked_edges_into_latents(field: str):
    graph = worked()
    found = {ends: getattr(graph.edge(*ends), field) for ends in (("H0", "F0"), ("H3", "F0"), ("H1", "F1"))}
    assert list(found.values()) == pytest.approx([2, 2, 2], **EXACT)
    others = [e for e in graph.edges if e.source[0] == "H" and (e.source, e.target) not in found]
    assert [getattr(edge, field) for edge in others] == pytest.approx([0] * len(others), **EXACT)


def test_the_worked_inputs_by_three_estimates():
    graph = worked()
    assert of(graph, "effect", "singular", "plural") == [4, 4]  # each opens or closes gates that the other shares
    assert of(graph, "attribution", "singular", "plural") == [4, 2]  # H1's gate is closed in the clean run
    assert of(graph, "integrated", "singular", "plural") == pytest.approx([3, 3], **EXACT)
    assert of(graph, "closed_form", "singular", "plural") == [None, None]


@pytest.mark.parametrize(("shift", "wanted"), [(0.0, (3.0, 2.8)), (0.5, (3.0, 3.0)), (1.0, (2.6, 2.8))])
def test_the_worked_rules_of_integration(shift: float, wanted: tuple[float, float]):
    """Left ends, midpoints and right ends of ten steps: 5.8, 6.0 and 5.4. Ours is the midpoint."""
    total = torch.zeros(2, dtype=torch.float64)
    for step in range(10):
        x = torch.lerp(SINGULAR, PLURAL, (step + shift) / 10).requires_grad_()
        logits = NETWORK.logits(NETWORK.units(x))
        total += torch.autograd.grad(logits[1] - logits[0], x)[0] / 10
    found = (total * (PLURAL - SINGULAR)).tolist()
    assert found == pytest.approx(wanted)
    ours = of(worked(), "integrated", "singular", "plural")
    assert (ours == pytest.approx(found, **EXACT)) is (shift == 0.5)


def test_a_gradient_misses_a_closed_gate_and_gives_its_effect_to_the_error():
    graph = worked()
    assert (graph.edge("plural", "H1").attribution, graph.edge("plural", "H1").effect) == (0, 2)
    assert (graph.edge("H1", "F1").attribution, graph.edge("H1", "F1").effect) == (0, 2)
    assert (graph.edge("H1", ERROR).attribution, graph.edge("H1", ERROR).effect) == (2, 0)


def test_edges_by_activation_rank_a_dead_unit_first():
    graph = worked()
    hidden = [edge for edge in graph.edges if edge.source.startswith("H")]
    first = max(hidden, key=lambda edge: edge.activation)
    assert first.source == "H2" and first.effect == 0
    assert first.activation > max(edge.activation for edge in hidden if edge.source != "H2")
    assert max(hidden, key=lambda edge: abs(edge.effect)).source != "H2"
    record = worked_result().rankings[0]
    assert (record["most_active"], record["effect"], record["idle"]) == ("H2", 0, ["H2"])
    assert record["rank_correlation"] == -1


def worked_result() -> ToyAgreementResult:
    return toy_agreement(by_hand=True)


# Identities on random weights

SEEDS = range(8)


@pytest.mark.parametrize("seed", SEEDS)
def test_effects_of_latents_and_error_are_the_total(seed: int):
    graph = random_graph(seed)
    for column in COLUMNS[1:]:  # all that follows each of these is linear, and each is a full cut
        for field in ("effect", "attribution", "integrated", "closed_form"):
            summed = sum(getattr(node, field) for node in graph.column(column))
            assert summed == pytest.approx(graph.total, **EXACT), (column, field)


def test_without_the_error_latents_do_not_add_up():
    missing = [abs(random_graph(seed).node(ERROR).effect) for seed in SEEDS]
    assert min(missing) > 0.05


@pytest.mark.parametrize("seed", SEEDS)
def test_where_all_is_linear_every_estimate_is_the_effect(seed: int):
    graph = random_graph(seed)
    known = [part for part in (*graph.nodes, *graph.edges) if part.closed_form is not None]
    assert len(known) == 4 + 8 + 2 + 8 * 2
    for part in known:
        told = [part.effect, part.attribution, part.integrated]
        assert told == pytest.approx([part.closed_form] * 3, **EXACT)


@pytest.mark.parametrize("seed", SEEDS)
def test_edges_add_up_to_their_source(seed: int):
    graph = random_graph(seed)
    for node in graph.nodes:
        leaving = [edge for edge in graph.edges if edge.source == node.name]
        for field in ("effect", "attribution", "integrated") if leaving else ():
            assert sum(getattr(edge, field) for edge in leaving) == pytest.approx(getattr(node, field), **EXACT)


@pytest.mark.parametrize("seed", SEEDS)
def test_integrated_edges_add_up_to_their_target(seed: int):
    """Into a latent come, over all units, just the latent's own effect; in the limit of many steps."""
    graph = random_graph(seed, steps=20_000)
    scale = max(abs(node.effect) for node in graph.nodes)
    for node in graph.nodes:
        arriving = [edge.integrated for edge in graph.edges if edge.target == node.name]
        if arriving and node.column != COLUMNS[3]:
            assert sum(arriving) == pytest.approx(node.effect, abs=2e-3 * scale), node.name


def test_more_steps_bring_integrated_inputs_to_the_total():
    gaps = {steps: 0.0 for steps in (10, 100, 10_000)}
    for seed, steps in itertools.product(SEEDS, gaps):
        graph = random_graph(seed, steps=steps)
        gaps[steps] += abs(sum(node.integrated for node in graph.column(COLUMNS[0])) - graph.total)
    assert gaps[10_000] < 0.02 * gaps[10] and gaps[10_000] < 1e-2


@pytest.mark.parametrize("seed", SEEDS)
def test_the_other_verb_and_the_other_direction_change_the_sign(seed: int):
    network, coder, (clean, corrupted) = random_toy(seed)
    graph = agreement_graph(network, coder, clean, corrupted)
    other = agreement_graph(network, coder, clean, corrupted, verb="runs")
    back = agreement_graph(network, coder, corrupted, clean)
    assert other.total == pytest.approx(-graph.total, **EXACT) and back.total == pytest.approx(-graph.total, **EXACT)
    for part, negated in zip((*graph.nodes, *graph.edges), (*other.nodes, *other.edges), strict=True):
        assert negated.effect == pytest.approx(-part.effect, **EXACT)
        assert (negated.clean, negated.corrupted) == (part.clean, part.corrupted)
    for node, there in zip(graph.nodes, back.nodes, strict=True):
        assert there.integrated == pytest.approx(-node.integrated, **EXACT)
        if node.closed_form is not None:  # where it is not linear, the way back is another one
            assert there.effect == pytest.approx(-node.effect, **EXACT)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_change_has_no_effect(seed: int):
    network, coder, (clean, corrupted) = random_toy(seed)
    same = agreement_graph(network, coder, clean, clean)
    # Rows of a batch may be rounded differently from one that is run alone, which depends on the processor.
    assert max(abs(part.effect) for part in (*same.nodes, *same.edges)) < 1e-12
    assert max(abs(part.integrated) for part in (*same.nodes, *same.edges)) < 1e-12
    for part in agreement_graph(network, coder, clean, corrupted).nodes:
        if part.clean == part.corrupted and part.name != ERROR:
            assert max(map(abs, (part.effect, part.attribution, part.integrated))) < 1e-12


class Slow:
    """The toy in plain Python, one number at a time; it shares no code with the study but the weights."""

    def __init__(self, network: AgreementNetwork, coder: SparseCoder):
        self.w, self.b, self.out, self.c = (tensor.tolist() for tensor in network.tensors().values())
        self.enc, self.eb = coder.encoder.tolist(), coder.encoder_bias.tolist()
        self.dec, self.db = coder.decoder.tolist(), coder.decoder_bias.tolist()

    @staticmethod
    def linear(rows, x, bias):
        return [sum(p * q for p, q in zip(row, x, strict=True)) + b for row, b in zip(rows, bias, strict=True)]

    def units(self, x):
        return [max(0.0, one) for one in self.linear(self.w, x, self.b)]

    def latents(self, h):
        return [max(0.0, one) for one in self.linear(self.enc, h, self.eb)]

    def rebuilt(self, f):
        return [sum(v * row[k] for v, row in zip(f, self.dec, strict=True)) + self.db[k] for k in range(4)]

    def error(self, h):
        return [p - q for p, q in zip(h, self.rebuilt(self.latents(h)), strict=True)]

    def metric(self, h):
        runs, run = self.linear(self.out, h, self.c)
        return run - runs

    def of_parts(self, f, error):
        return self.metric([p + q for p, q in zip(self.rebuilt(f), error, strict=True)])


def put(values, at, value):
    return [value if k == at else old for k, old in enumerate(values)]


@pytest.mark.parametrize("seed", SEEDS)
def test_exact_patches_are_those_of_a_slow_reference(seed: int):
    network, coder, inputs = random_toy(seed)
    slow, (clean, corrupted) = Slow(network, coder), inputs.tolist()
    h, h2 = slow.units(clean), slow.units(corrupted)
    f, eps = slow.latents(h), slow.error(h)
    wanted: dict[object, float] = {ERROR: slow.of_parts(f, slow.error(h2))}
    for i, name in enumerate(("singular", "plural")):
        moved = slow.units(put(clean, i, corrupted[i]))
        wanted[name] = slow.metric(moved)
        wanted |= {(name, f"H{j}"): slow.metric(put(h, j, moved[j])) for j in range(4)}
    for j in range(4):
        moved = put(h, j, h2[j])
        wanted[f"H{j}"] = slow.metric(moved)
        made = slow.latents(moved)
        wanted |= {(f"H{j}", f"F{k}"): slow.of_parts(put(f, k, made[k]), eps) for k in range(len(f))}
        wanted[f"H{j}", ERROR] = slow.of_parts(f, slow.error(moved))
    wanted |= {f"F{k}": slow.of_parts(put(f, k, slow.latents(h2)[k]), eps) for k in range(len(f))}
    graph = agreement_graph(network, coder, *inputs)
    found = {node.name: node.effect for node in graph.nodes}
    found |= {(edge.source, edge.target): edge.effect for edge in graph.edges}
    assert len(wanted) == 2 + 8 + 4 + 4 * 8 + 8
    for what, metric in wanted.items():
        assert found[what] == pytest.approx(metric - slow.metric(h), abs=1e-9), what
    for field, units in (("clean", h), ("corrupted", h2)):
        values = [*units, *slow.latents(units), math.hypot(*slow.error(units))]
        assert [getattr(node, field) for node in graph.nodes[2:-2]] == pytest.approx(values, abs=1e-9)


def test_a_stage_of_a_smooth_function_is_differentiated():
    """Against derivatives written down by hand: m = u² v for targets (u², v) of sources (u, v)."""
    clean, corrupted = torch.tensor([1.0, 2.0]).double(), torch.tensor([3.0, 5.0]).double()

    def forward(rows):
        return torch.stack([rows[:, 0] ** 2, rows[:, 1]], dim=1)

    stage = Stage(clean, corrupted, (1, 1), forward, (1, 1), lambda rows: rows.prod(1), steps=4000)
    edges = stage.edges()
    assert edges.effect.tolist() == [[16.0, 0.0], [0.0, 3.0]]  # (9 - 1) * 2 and 1 * (5 - 2)
    assert edges.attribution.tolist() == [[8.0, 0.0], [0.0, 3.0]]  # 2uv * 2 and u² * 3
    # Over t: u = 1 + 2t, v = 2 + 3t: the integrals of 2uv du and u² dv.
    assert edges.integrated.flatten().tolist() == pytest.approx([30.0, 0.0, 0.0, 13.0], rel=1e-6)
    assert edges.integrated.sum().item() == pytest.approx(45 - 2, rel=1e-6)


# Data and training


def test_sentences_say_the_number_and_held_out_nouns_are_in_no_other_sentence():
    sentences = drawn_sentences(torch.Generator().manual_seed(3))
    assert len(set(sentences.texts)) == len(sentences.texts) == 6 * len(NOUNS)
    for text, number in zip(sentences.texts, sentences.numbers.tolist(), strict=True):
        assert ("runs" in text.split()) == (number == 0)
    forms = {form: noun for noun, both in enumerate(NOUNS) for form in both}
    assert len(forms) == 2 * len(NOUNS)
    used = [{forms[w] for t, held in zip(sentences.texts, sentences.held_out, strict=True) if held == side
             for w in t.split() if w in forms} for side in (False, True)]  # fmt: skip
    assert used[0] & used[1] == set() and len(used[1]) == len(NOUNS) // 4
    means = [sentences.inputs[sentences.numbers == number].mean(0) for number in (0, 1)]
    assert torch.allclose(torch.stack(means), torch.eye(2, dtype=torch.float64), atol=0.12)


def test_the_best_accuracy_is_that_of_the_right_rule():
    drawn = [drawn_sentences(torch.Generator().manual_seed(seed)) for seed in range(200)]
    right = [((one.inputs[:, 1] > one.inputs[:, 0]).long() == one.numbers).double().mean() for one in drawn]
    assert float(torch.stack(right).mean()) == pytest.approx(best_accuracy(), abs=0.003)


def test_descent_keeps_every_loss():
    x = torch.ones((), dtype=torch.float64, requires_grad=True)
    losses = descend([x], lambda: (x - 3) ** 2, steps=5, rate=0.1)
    assert len(losses) == 6 and losses[0] == 4 and losses[-1] == pytest.approx((float(x.detach()) - 3) ** 2)
    assert list(losses) == sorted(losses, reverse=True)


def test_training_learns_and_says_how_well(trained: ToyAgreementResult):
    network, coder = trained.network, trained.coder
    assert len(network["losses"]) == network["steps"] + 1 and len(coder["losses"]) == coder["steps"] + 1
    assert network["final_loss"] == network["losses"][-1] < 0.25 * network["losses"][0]
    assert network["held_out_accuracy"] > best_accuracy() - 0.06
    assert coder["fvu"] < 0.03 and coder["l0"] < 4
    weights = trained.weights
    assert {tensor.dtype for tensor in weights.values()} == {torch.float64}
    assert torch.allclose(weights["coder.decoder"].norm(dim=-1), torch.ones(6, dtype=torch.float64), atol=1e-9)


def test_the_numbers_of_the_training_are_those_of_the_weights(trained: ToyAgreementResult):
    sentences = drawn_sentences(torch.Generator().manual_seed(0))
    named = {name.partition(".")[2]: tensor for name, tensor in trained.weights.items() if name[0] == "n"}
    units = torch.relu(sentences.inputs @ named["hidden"].T + named["hidden_bias"])
    logits = units @ named["output"].T + named["output_bias"]
    held = sentences.held_out
    right = (logits.argmax(1) == sentences.numbers)[held].double().mean()
    assert float(right) == trained.network["held_out_accuracy"]
    coder = {name.partition(".")[2]: tensor for name, tensor in trained.weights.items() if name[0] == "c"}
    latents = torch.relu(units @ coder["encoder"].T + coder["encoder_bias"])
    missed = units - latents @ coder["decoder"] - coder["decoder_bias"]
    fvu = missed[held].square().sum() / (units[held] - units[held].mean(0)).square().sum()
    assert float(fvu) == pytest.approx(trained.coder["fvu"], rel=1e-9)
    assert float((latents[held] > 0).sum(1).double().mean()) == pytest.approx(trained.coder["l0"])
    assert float((latents.amax(0) == 0).double().mean()) == trained.coder["dead_share"]


def test_the_same_seed_gives_the_same_and_another_does_not(trained: ToyAgreementResult):
    again, other = toy_agreement(), toy_agreement(seed=1)
    assert again.records == trained.records and again.network == trained.network and again.coder == trained.coder
    assert other.records != trained.records
    wider = toy_agreement(latents=8)
    assert len(wider.graph.column("latents")) == 9
    assert wider.network == trained.network  # the coder's width changes nothing that comes before it


def test_a_sentence_may_be_the_input():
    result = toy_agreement(clean="The dog runs", corrupted="The dogs run", by_hand=True)
    x = drawn_sentences(torch.Generator().manual_seed(0))
    for name, side in (("singular", 0), ("plural", 1)):
        assert result.graph.node(name).clean == float(x.inputs[x.texts.index("The dog runs"), side])
        assert result.graph.node(name).corrupted == float(x.inputs[x.texts.index("The dogs run"), side])


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"verb": "walks"}, "knows runs and run"),
        ({"latents": 0}, "from 1 to 64"),
        ({"latents": 65}, "from 1 to 64"),
        ({"latents": 3, "by_hand": True}, "by hand has three"),
        ({"clean": "The dogs runs"}, "one of the 240 sentences"),
        ({"steps": 0}, "at least one"),
    ],
)
def test_what_does_not_exist_is_refused(choices: dict, said: str):
    with pytest.raises(UsageError, match=said):
        toy_agreement(**choices)


# The result


def test_a_result_is_saved_and_loaded(trained: ToyAgreementResult, tmp_path):
    loaded = Result.load(trained.save(tmp_path / "toy.json"))
    assert isinstance(loaded, ToyAgreementResult)
    assert loaded.to_dict() == trained.to_dict() and loaded.graph == trained.graph
    assert all(torch.equal(loaded.weights[name], tensor) for name, tensor in trained.weights.items())
    assert len(loaded.rows()) == 2 * 4 + 4 * 7 + 7 * 2


def test_a_page_shows_the_graph_and_every_figure(trained: ToyAgreementResult):
    page = trained.to_html()
    assert "<script" not in page and "<image" not in page and "href" not in page
    drawn = ET.fromstring(re.search(r"<svg.*?</svg>", page, re.DOTALL)[0])
    texts = {element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")}
    assert {"F0", "H3", ERROR, "runs", *COLUMNS} <= texts
    titles = [one.text for one in drawn.iter("{http://www.w3.org/2000/svg}title")]
    for edge in trained.graph.edges:
        if trained.graph.has_effect(edge):
            told = next(one for one in titles if one.startswith(f"{edge.source} to {edge.target}\n"))
            assert f"effect {edge.effect:+.4g}" in told and f"activation {edge.clean:.4g} clean" in told
    for record in (*trained.records, *trained.nodes):
        assert html.escape(f"{record['effect']:.4g}") in page


# The picture


@pytest.mark.parametrize(("seed", "latents"), [(0, 6), (1, 6), (2, 8), (3, 4), (4, 12), (5, 16)])
def test_no_words_cover_one_another(seed: int, latents: int):
    words = toy_agreement(seed=seed, latents=latents).picture.words
    covered = [(one.text, other.text) for one, other in itertools.combinations(words, 2) if overlap(one, other)]
    assert covered == []


def test_widths_are_effects_and_colours_are_signs(trained: ToyAgreementResult):
    graph, picture = trained.graph, trained.picture
    width = {line.told.split("\n")[0]: line for line in picture.lines}
    effective = [edge for edge in graph.edges if graph.has_effect(edge)]
    largest = max(abs(edge.effect) for edge in graph.edges)
    assert {edge.effect > 0 for edge in effective} == {True, False}
    for edge in effective:
        line = width[f"{edge.source} to {edge.target}"]
        assert line.width == pytest.approx(max(1.2, 9 * abs(edge.effect) / largest))
        assert line.dashed == (edge.effect < 0) and line.colour == ("#0072b2" if edge.effect > 0 else "#d55e00")
    figures = [words.text for words in picture.words if words.boxed]
    assert sorted(figures) == sorted(f"{e.effect:+.2f}".replace("-", "\N{MINUS SIGN}") for e in effective)


def test_an_active_unit_without_effect_is_hollow():
    picture = worked_result().picture
    discs = {disc.told.split("\n")[0]: disc for disc in picture.discs}
    assert discs["H2"].dashed and discs["H2"].left == discs["H2"].right == "#ffffff"
    assert not discs["H0"].dashed and (discs["H0"].left, discs["H0"].right) == ("#009e73", "#ffffff")


@pytest.mark.parametrize("ending", [".png", ".svg"])
def test_a_graph_is_drawn_the_same_twice(trained: ToyAgreementResult, ending: str, tmp_path):
    first, second = (plots.save_graph(trained, tmp_path / f"{name}{ending}") for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes()[:4] in (b"\x89PNG", b"<?xm")


def test_a_picture_without_any_effect_is_drawn(tmp_path):
    graph = agreement_graph(NETWORK, CODER, SINGULAR, SINGULAR)
    picture = laid_out(graph, ["nothing"])
    assert not [words for words in picture.words if words.boxed]
    same = toy_agreement(by_hand=True, corrupted="singular")
    assert plots.save_graph(same, tmp_path / "same.svg").exists()


# The command line


def test_the_command_prints_the_graph(bathyscope, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = bathyscope("study", "toy-agreement", "--by-hand", "--plot", "toy.svg", "--out", "toy.html")
    assert done.code == 0, done.err
    assert re.search(r"^ ?H2 +1\.00 +1\.00 +0 +0 +0 +0 +active, no effect", done.out, re.MULTILINE)
    assert re.search(r"H1 → F1 +0\.00 +1\.00 +\+2\.00 +0 +\+2\.00 +█{12}", done.out)
    assert "Not shown: 21 edges without effect, 21 of them from nodes that are active." in done.out
    assert {path.name for path in tmp_path.iterdir()} == {"toy.svg", "toy.html"}


def test_the_command_gives_json(bathyscope):
    began = time.perf_counter()
    found = bathyscope("study", "toy-agreement", "--seed", "2", "--latents", "5", "--verb", "runs", "--json").json()
    assert time.perf_counter() - began < 30
    direct = studies.toy_agreement(seed=2, latents=5, verb="runs")
    assert found["kind"] == "toy-agreement" and found["rows"] == json.loads(direct.to_json())["rows"]
    assert found["metric"]["total"] == direct.graph.total < 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--verb", "walks"), "the network knows runs and run"),
        (("--by-hand", "--latents", "4"), "has three"),
        (("--clean", "The unicorn runs"), "The actor runs"),
        (("--plot", "toy.jpg"), ".png"),
    ],
)
def test_the_command_refuses_in_one_line(bathyscope, arguments, said):
    done = bathyscope("study", "toy-agreement", *arguments)
    assert done.code == 2
    command_line.assert_one_line(done, said)
