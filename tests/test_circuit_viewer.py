"""The picture of a circuit: what is in the page, where it stands, what one does there, and other tools' formats."""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import torch
from safetensors.torch import save_file

import command_line
from bathyscope.circuits import AttributionGraph, CircuitResult, Feature, check_graph_json, open_circuit
from bathyscope.circuits import attribution_graphs as graphs
from bathyscope.circuits.own_labels import read_labels, read_words
from bathyscope.circuits.viewer import View, graph_view, still_picture, to_dot, viewer_page
from bathyscope.circuits.viewer.layout import placed
from bathyscope.errors import StorageError
from bathyscope.studies import AgreementResult
from browsing import FilePage, file_pages, needs_browser
from circuits_by_hand import READING, SITES, SOURCE, TOKENS, circuit_by_hand
from command_line import assert_one_line

bathyscope, home = command_line.bathyscope, command_line.home
"""The fixtures that are used here."""

HOSTILE = '</script><img src=x onerror=document.title="taken"><!-- \u2028 \u202egnp \ud800 \x07 " \\'


def data_of(page: str) -> dict:
    return json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[0])


def attribution_graph_by_hand() -> AttributionGraph:
    """A token, a feature, an error and two logits."""
    nodes = (
        graphs.Node("feature", 1, 1, 7, 2.0),
        graphs.Node("error", 1, 1, label=" dogs"),
        graphs.Node("token", None, 0, 65, label="The"),
        graphs.Node("logit", None, 1, 66, 0.75, " are"),
        graphs.Node("logit", None, 1, 67, 0.25, " is"),
    )
    starts, sources = torch.tensor([0, 1, 1, 1, 3, 4]), torch.tensor([2, 0, 1, 0])
    weights = torch.tensor([2.0, 1.5, 0.5, -1.0])
    zeros, mass = torch.zeros(5), torch.tensor([2.0, 0, 0, 2.0, 1.0])
    return AttributionGraph(
        "The dogs", ("The", " dogs"), nodes, starts, sources, weights, zeros, mass, mass.clone(), SOURCE, {}
    )


# What is in the page


def test_the_data_in_the_page_is_the_result():
    result = circuit_by_hand()
    data = data_of(result.to_html())
    drawn = {one["key"]: one for one in data["nodes"]}
    for one in result.nodes:
        there = drawn[str(one.feature)]
        assert there["facts"] == {
            "attribution": one.attribution,
            "measured effect": one.effect,
            "activation, clean": one.clean,
            "activation, corrupted": one.corrupted,
            "activation, singular": one.by_kind["singular"],
            "activation, plural": one.by_kind["plural"],
            "tells kinds apart": one.separates,
        }
        assert (there["kind"] == "error") == (one.feature.index is None)
        assert there["label"] == one.label and there["reading"] == one.reading
        assert (tuple(there["promotes"]), tuple(there["suppresses"])) == (one.promotes, one.suppresses)
        assert data["rows"][there["row"]] == one.feature.site
        assert data["columns"][there["column"]] == f"{one.feature.position}: {TOKENS[one.feature.position]}"
    keys = [one["key"] for one in data["nodes"]]
    edges = {(keys[source], keys[target]): weight for source, target, weight in data["edges"]}
    assert edges == {(str(one.source), str(one.target or "output")): one.weight for one in result.edges}
    assert data["captions"] == list(result.captions())


def test_the_page_has_two_scripts_and_asks_nobody():
    page = circuit_by_hand(word=HOSTILE).to_html()
    inside = re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL)
    assert len(inside) == page.count("<script") == 2 and "<img" not in page
    assert page.encode()
    assert any(HOSTILE in one["promotes"] for one in json.loads(inside[0])["nodes"])
    policy = re.search(r'Content-Security-Policy" content="(.+?)"', page)
    assert policy and re.fullmatch(
        r"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-[\w+/=]+'; img-src data:", policy[1]
    )
    forbidden = r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(|fetch\(|XMLHttp|import\("
    assert not re.search(forbidden, inside[1])
    assert set(re.findall(r"https?://[^\"'`]+", inside[1])) == {"http://www.w3.org/2000/svg"}


def test_a_circuit_in_a_notebook_has_no_script():
    assert "<script" not in circuit_by_hand().page()


def test_own_labels_and_groups_are_in_the_page():
    result = circuit_by_hand()
    first, second = result.nodes[0].feature, result.nodes[1].feature
    view = result.view("mine", labels={str(first): "my own"}, groups={"both": [str(first), str(second)]})
    data = data_of(viewer_page(view))
    assert data["name"] == "mine" and data["groups"] == {"both": [str(first), str(second)]}
    assert data["labels"] == {str(first): "my own"} and data["nodes"][0]["label"] == "my own"


# Where things stand


def test_layers_stand_upward_and_tokens_across():
    view = circuit_by_hand(40, 60).view()
    at = list(zip(view.nodes, view.layout.nodes, strict=True))
    for one, (x, y) in at:
        for other, (to_x, to_y) in at:
            if one.row < other.row:
                assert y > to_y, "what comes later stands above"
            if one.column < other.column:
                assert x < to_x
            if one is not other and y == to_y:
                assert abs(x - to_x) > 60, "no two nodes lie on one another"
    by_kind = {one.kind: place for one, place in at}
    assert by_kind["token"][1] == max(y for _, (_, y) in at) and by_kind["output"][1] == min(y for _, (_, y) in at)
    assert [one.name for one in view.nodes if one.kind == "token"] == list(TOKENS)
    assert all(0 < x < view.layout.width and 0 < y < view.layout.height for _, (x, y) in at)


def test_a_row_is_as_high_and_a_column_as_wide_as_what_is_in_it():
    few, many = placed([(0, 0), (1, 0)], 2, 2), placed([(0, 0), *[(1, 0)] * 30], 2, 2)
    assert many.height > few.height and many.width > few.width
    assert len(set(many.nodes)) == 31
    assert placed([], 1, 1).nodes == ()


def test_of_a_long_prompt_only_tokens_with_nodes_are_shown():
    view = circuit_by_hand(positions=TOKENS + (" and",) * 100).view()
    assert view.columns == ("2:  (16 tokens)", "5:  (9 tokens)")


def test_what_is_too_much_is_counted():
    view = circuit_by_hand(1300, 11_000, sites=tuple(f"resid_post.{layer}" for layer in range(20))).view()
    assert sum(one.kind in ("feature", "error") for one in view.nodes) == 1_000
    assert "1,000 of 1,300 nodes" in view.captions[-1]
    kept = min(one.size for one in view.nodes if one.size is not None)
    assert kept >= sorted(abs(one.attribution) for one in circuit_by_hand(1300, 1).nodes)[300] or kept > 0


# Other tools' formats


@pytest.mark.parametrize("sites", [SITES, ("embed", "attn_out.3", "mlp_out.3", "resid_post.3")])
def test_the_public_json_is_the_circuit_and_passes_its_check(sites):
    result = circuit_by_hand(sites=sites)
    found = json.loads(json.dumps(result.graph_json("small")))
    check_graph_json(found)
    assert found["metadata"]["prompt_tokens"] == list(TOKENS) and found["metadata"]["slug"] == "small"
    *features, end = found["nodes"]
    assert end["is_target_logit"] and end["ctx_idx"] == len(TOKENS) - 1
    assert [one["feature_type"] == "mlp reconstruction error" for one in features] == [
        one.feature.index is None for one in result.nodes
    ]
    assert len({one["node_id"] for one in found["nodes"]}) == len(found["nodes"])
    names = {one.feature: node["node_id"] for one, node in zip(result.nodes, features, strict=True)}
    assert [(one["source"], one["target"], one["weight"]) for one in found["links"]] == [
        (names[one.source], names[one.target] if one.target else end["node_id"], one.weight) for one in result.edges
    ]
    blocks = {one["layer"] for one in features}
    assert blocks == ({"2", "5", "9"} if sites == SITES else {"0", "1", "2", "3"} & blocks)
    for one, node in zip(result.nodes, features, strict=True):
        assert one.feature.site in node["clerp"]
    influences = [one["influence"] for one in features]
    assert influences == sorted(influences) and influences[-1] == pytest.approx(1)
    total = sum(abs(one.attribution) for one in result.nodes)
    assert influences[0] == pytest.approx(abs(result.nodes[0].attribution) / total)


def test_two_kinds_of_sites_are_never_one_node():
    both = [Feature("attn_out.3", 2, 5), Feature("mlp_out.3", 2, 5)]
    base = circuit_by_hand(2, 2)
    nodes = tuple(dataclasses.replace(base.nodes[0], feature=one) for one in both)
    found = dataclasses.replace(base, nodes=nodes, edges=()).graph_json()
    assert [one["node_id"] for one in found["nodes"]] == ["0_5_2", "1_5_2", "2_0_5"]
    assert "0: attn_out.3, 1: mlp_out.3" in found["metadata"]["info"]["description"]


TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n]*|->|[{}\[\]=;,]|[A-Za-z_]\w*|-?\d+(?:\.\d+)?|\s+')


def dot_tokens(text: str) -> list[str]:
    """The tokens of a DOT file, each of which the language knows."""
    found, at = [], 0
    while at < len(text):
        match = TOKEN.match(text, at)
        assert match, text[at : at + 40]
        at = match.end()
        if not match[0].isspace() and not match[0].startswith("//"):
            found.append(match[0])
    return found


@pytest.mark.parametrize("word", [" dogs", HOSTILE, '"];}\n x -> y', "\\", "\\N"])
def test_dot_has_every_node_and_edge_whatever_texts_say(word):
    result = circuit_by_hand(word=word)
    view = result.view(word)
    tokens = dot_tokens(to_dot(view))
    assert tokens[0] == "digraph" and tokens.count("{") == tokens.count("}") and tokens[-1] == "}"
    assert tokens.count("penwidth") == len(result.edges) == tokens.count("->") - tokens.count("invis")
    declared = {tokens[at] for at in range(len(tokens) - 1) if tokens[at + 1] == "[" and tokens[at - 1] != "->"}
    assert declared - {"node", "edge"} == {f"n{number}" for number in range(len(view.nodes))}
    assert tokens.count("dashed") == sum(one.weight < 0 for one in result.edges) + sum(
        one.feature.index is None for one in result.nodes
    )
    assert "\n" not in "".join(one for one in tokens if one.startswith('"'))


def test_an_attribution_graph_is_a_view_too():
    public = graphs.to_neuronpedia(attribution_graph_by_hand(), "small", node_threshold=1, edge_threshold=1)
    view = graph_view(public, "small")
    assert view.rows == ("tokens", "layer 1", "output")
    rows = {one.kind: one.row for one in view.nodes}
    assert rows == {"token": 0, "feature": 1, "error": 1, "output": 2}
    keys = [one.key for one in view.nodes]
    edges = {(keys[source], keys[target]): weight for source, target, weight in view.edges}
    assert edges == {(one["source"], one["target"]): one["weight"] for one in public["links"]}
    assert "token@1" in keys, "a token that is no node is named all the same"
    assert len(still_picture(view).lines) == len(view.edges)


# The command line


@pytest.fixture
def saved(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return circuit_by_hand().save(tmp_path / "circuit.json")


def test_a_circuit_is_shown_in_a_table_and_drawn(bathyscope, saved, tmp_path):
    done = bathyscope("circuit", "show", "circuit.json")
    assert (done.code, done.err) == (0, "")
    for one in open_circuit(saved).nodes:
        assert str(one.feature) in done.out
    for ending, start in ((".html", b"<!doctype html>"), (".svg", b"<?xml"), (".png", b"\x89PNG")):
        done = bathyscope("circuit", "show", "circuit.json", "--out", f"drawn{ending}")
        assert (done.code, done.out, done.err) == (0, "", f"saved to drawn{ending}\n")
        assert (tmp_path / f"drawn{ending}").read_bytes().startswith(start)
    data = data_of((tmp_path / "drawn.html").read_text("utf-8"))
    assert data["name"] == "circuit" and len(data["edges"]) == len(open_circuit(saved).edges)


@pytest.mark.parametrize("ending", [".html", ".svg", ".png", ".dot", ".json"])
def test_whatever_tokens_say_every_format_is_written(bathyscope, tmp_path, ending):
    word = f"{HOSTILE} $x_$ \x1b[31m [bold] %s"
    given = {"schema_version": 1, **circuit_by_hand(word=word, positions=tuple(word + one for one in TOKENS)).to_dict()}
    path, out = tmp_path / "a.json", tmp_path / f"out{ending}"
    path.write_text(json.dumps(given))
    command = (
        ("convert", str(path), str(out)) if ending in (".dot", ".json") else ("show", str(path), "--out", str(out))
    )
    assert bathyscope("circuit", *command).code == 0 and out.read_bytes()
    done = bathyscope("circuit", "show", str(path))
    assert done.code == 0 and not re.search("[\x00-\x09\x0b-\x1f\u202e]", done.out)


def test_a_study_and_an_attribution_graph_are_shown_as_well(bathyscope, saved, tmp_path):
    study = AgreementResult(records=(), provenance=SOURCE, notes=(), timing={}, found=circuit_by_hand())
    study.save(tmp_path / "study.json")
    attribution_graph_by_hand().save(tmp_path / "graph.json")
    for name, words in (("study.json", "A circuit of 12 features"), ("graph.json", "layer 1")):
        done = bathyscope("circuit", "show", name)
        assert done.code == 0 and words in done.out, done.err
        for ending in (".html", ".svg"):
            assert bathyscope("circuit", "show", name, "--out", f"out{ending}").code == 0
        assert bathyscope("circuit", "convert", name, "out.json").code == 0
        check_graph_json(json.loads((tmp_path / "out.json").read_text()))
        assert bathyscope("circuit", "convert", name, "out.dot").code == 0
        dot_tokens((tmp_path / "out.dot").read_text())


def test_what_is_converted_is_read_again_checked_and_told(bathyscope, saved, tmp_path):
    labels = {str(open_circuit(saved).nodes[0].feature): "my own"}
    members = [str(one.feature) for one in open_circuit(saved).nodes[:2]]
    (tmp_path / "mine.json").write_text(json.dumps({**labels, "groups": {"both": members}}))
    done = bathyscope("circuit", "convert", "circuit.json", "b.graph.json", "--slug", "b", "--labels", "mine.json")
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "b.graph.json").read_text())
    assert found["metadata"]["slug"] == "b" and found["nodes"][0]["clerp"].startswith("my own (")
    assert found["qParams"]["supernodes"] == [["both", *(one["node_id"] for one in found["nodes"][:2])]]
    done = bathyscope("circuit", "convert", "b.graph.json")
    assert done.code == 0 and "public schema" in done.out and "links" in done.out
    assert bathyscope("circuit", "show", "b.graph.json", "--out", "b.html").code == 0
    assert data_of((tmp_path / "b.html").read_text("utf-8"))["groups"]["both"] == found["qParams"]["supernodes"][0][1:]


def lies() -> Iterator[tuple[str, object, str]]:
    """Files that contradict themselves: what is changed, and what is said of it."""
    first = circuit_by_hand().to_dict()
    row, edge = first["rows"][0], first["edges"][0]
    later = next(one for one in first["edges"] if one["target"])
    yield "rows", first["rows"][1:], "differ"
    yield "rows", [*first["rows"], row], "differ"
    yield "rows", [{**row, "feature": "resid_post.2/1@99999999999"}, *first["rows"][1:]], "differ"
    yield "rows", [{**row, "attribution": float("nan")}, *first["rows"][1:]], "attribution of"
    yield "rows", [{**row, "clean": "much"}, *first["rows"][1:]], "could not be read"
    yield "rows", [{**row, "feature": "\x1b[31m"}, *first["rows"][1:]], "is no feature"
    yield "rows", "none", "could not be read"
    yield "edges", [{**edge, "source": "resid_post.2/4607@1"}], "an edge of resid_post.2/4607@1"
    yield "edges", [{**edge, "weight": float("inf")}], "weighs inf"
    yield "edges", [{**later, "source": later["target"], "target": later["source"]}], "later sites"
    yield "edges", [edge, edge], "two edges"
    yield "positions", ["a"], "the prompts have 1 positions"
    yield "circuit", {**first["circuit"], "sites": ["resid_post.2"]}, "features of its sites"
    yield "measured", {}, "could not be read"


@pytest.mark.parametrize(("field", "value", "said"), list(lies()))
def test_a_file_that_lies_is_refused_in_one_line(bathyscope, tmp_path, monkeypatch, field, value, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.json").write_text(json.dumps({"schema_version": 1, **circuit_by_hand().to_dict(), field: value}))
    for arguments in (("show", "bad.json", "--out", "x.html"), ("convert", "bad.json", "x.dot")):
        done = bathyscope("circuit", *arguments)
        assert done.code == 2 and not (tmp_path / "x.html").exists() and not (tmp_path / "x.dot").exists()
        assert_one_line(done, said)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("sources", torch.tensor([2, 0, 9, 0]), "sources"),
        ("starts", torch.tensor([0, 3, 1, 1, 3, 4]), "starts"),
        ("weights", torch.tensor([1.0]), "weights"),
        ("weights", torch.tensor([1.0, 1.0, torch.inf, 1.0]), "weights"),
        ("mass", torch.full((5,), torch.nan), "mass"),
        ("tokens", ["The"], "position 1"),
        ("nodes", [{"kind": "thing", "layer": 1, "position": 1}] * 5, "kind"),
    ],
)
def test_an_attribution_graph_that_lies_is_refused_in_one_line(bathyscope, tmp_path, name, value, said):
    right = attribution_graph_by_hand()
    path = right.save(tmp_path / "bad.json")
    if isinstance(value, torch.Tensor):
        save_file({**right.tensors(), name: value}, path.with_suffix(".safetensors"))
    else:
        path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    done = bathyscope("circuit", "show", str(tmp_path / "bad.json"))
    assert done.code == 2
    assert_one_line(done, said)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no json", "could not be read"),
        (b"\xff\xfe", "could not be read"),
        (b"[" * 100_000, "could not be read"),
        (b"[1]", "no JSON object"),
        (b"{}", "metadata is missing"),
        (b'{"kind": "probing"}', "could not be read"),
        (b'{"schema_version": 1, "kind": ["a"]}', "could not be read"),
        (b'{"metadata": {"slug": "a", "scan": "b", "prompt": "c", "prompt_tokens": ["d"]}, "qParams": {}, "nodes": [], '
         b'"links": [{"source": "a", "target": "b", "weight": 1}]}', "links[0].source"),
    ],
)  # fmt: skip
def test_what_is_no_graph_is_refused_in_one_line(bathyscope, tmp_path, content, said):
    (tmp_path / "bad.json").write_bytes(content)
    done = bathyscope("circuit", "show", str(tmp_path / "bad.json"))
    assert done.code == 2
    assert_one_line(done, said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show", "none.json"), "No such file"),
        (("show", "circuit.json", "--out", "circuit.pdf"), "must end in .html or .svg or .png"),
        (("show", "circuit.json", "--out", "nowhere/circuit.html"), "there is no folder"),
        (("show", "circuit.json", "--labels", "none.json"), "could not be read"),
        (("convert", "circuit.json", "circuit.html"), "must end in .json or .dot"),
        (("convert", "circuit.json", "circuit.json"), "that is the file that is read"),
        (("convert", "circuit.json", "x.json", "--slug", ""), "empty --slug"),
    ],
)
@pytest.mark.usefixtures("saved")
def test_wrong_requests(bathyscope, arguments, said):
    done = bathyscope("circuit", *arguments)
    assert done.code == 2
    assert_one_line(done, said)


def test_labels_and_groups_lie_in_one_file(tmp_path):
    path = tmp_path / "c.labels.json"
    path.write_text('{"resid_post.2/1": "one", "groups": {"g": ["resid_post.2/1@2"]}}')
    assert read_labels(path) == {"resid_post.2/1": "one"}
    assert read_words(path)[1] == {"g": ["resid_post.2/1@2"]}
    for wrong in ('{"groups": 1}', '{"groups": {"g": 1}}', '{"groups": {"g": [1]}}', '{"a": 1}', "[]"):
        path.write_text(wrong)
        with pytest.raises(StorageError, match="could not be read"):
            read_words(path)


# In a browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[FilePage]:
    with file_pages() as one:
        yield one


def drawn(result: CircuitResult, path: Path, view: View | None = None) -> Path:
    path.write_bytes(viewer_page(view or result.view("mine")).encode())
    return path


CATCH = """
    HTMLAnchorElement.prototype.click = function () { window.fileName = this.download };
    URL.createObjectURL = (blob) => { window.blob = blob; return "blob:caught" }; 0
"""


def press_button(page: FilePage, text: str) -> None:
    page.run(f"[...document.querySelectorAll('button')].find((one) => one.textContent.startsWith({text!r})).click()")


@needs_browser
def test_hostile_words_are_shown_and_do_nothing(chromium, tmp_path):
    result = circuit_by_hand(word=HOSTILE, positions=tuple(f"{HOSTILE}{one}" for one in TOKENS))
    reading = {"rule": HOSTILE, "promoted": [[HOSTILE, 1]], "examples": [{"tokens": [HOSTILE]}, None, 3], "density": []}
    reading |= {"description": {"text": HOSTILE, "score": HOSTILE}, "suppressed": {"a": 1}}
    result = dataclasses.replace(result, nodes=tuple(dataclasses.replace(one, reading=reading) for one in result.nodes))
    result = result.named({str(one.feature): HOSTILE for one in result.nodes})
    path = drawn(result, tmp_path / "a.html")
    fragment = (
        f"#v=1&pin={quote(HOSTILE, errors='replace')}&group=[1&group=[[],3]&nodes=NaN&edges=-1&q=<img>&at=__proto__"
    )
    for one in ("", fragment):
        chromium.open(path, one)
        for key in ("ArrowUp", "Enter", "ArrowLeft", "Enter", "g", "Enter"):
            chromium.press(key)
        assert chromium.run("document.images.length + document.scripts.length") == 2
        assert chromium.run("document.title").startswith("bathyscope: A circuit")
        shown = chromium.run("document.body.innerText")
        assert "<img src=x onerror" in shown and "\u202e" not in shown and "\\u202e" in shown
        assert chromium.complaints() == []


@needs_browser
def test_what_a_person_does_is_in_the_address_and_comes_back(chromium, tmp_path):
    result = circuit_by_hand()
    path = drawn(result, tmp_path / "a.html")
    chromium.open(path)
    assert chromium.run("document.querySelectorAll('.node').length") == 12 + len(TOKENS) + 1
    assert chromium.run("document.querySelectorAll('.edge').length") == len(result.edges) + 2  # and the legend's
    assert chromium.run("document.querySelectorAll('.rim.error').length") == 2
    chromium.press("ArrowUp")
    largest = result.nodes[0]
    assert chromium.run("document.querySelector('.current').item.id") == str(largest.feature)
    assert f"{largest.effect:.3g}" in chromium.run("document.querySelector('aside').innerText")
    chromium.press("Enter")
    chromium.press("/")
    other = next(one for one in result.nodes[1:] if one.feature.index is not None)
    chromium.type(f"/{other.feature.index}@{other.feature.position}")
    chromium.press("Enter")
    chromium.press("Enter")
    assert chromium.run("document.querySelectorAll('.pinned').length") == 2
    chromium.press("g")
    chromium.type("both")
    chromium.press("Enter")
    assert chromium.run("[...document.querySelectorAll('.node.group .name')].map((one) => one.textContent)") == ["both"]
    keys = {str(largest.feature), str(other.feature)}
    outward = sum(one.weight for one in result.edges if str(one.source) in keys and one.target is None)
    joined = chromium.run(
        "[...document.querySelectorAll('.back .edge')].map((one) => one.link)"
        ".filter(({ from, to }) => from.group === 'both' && to.kind === 'output').map(({ weight }) => weight)"
    )
    assert joined == [pytest.approx(outward)]
    chromium.run("new Promise((done) => setTimeout(done, 400))")
    fragment = chromium.run("location.hash")
    chromium.open(path, fragment)
    assert chromium.run("document.querySelector('.node.group.pinned .name').textContent") == "both"
    chromium.press("u")
    assert chromium.run("document.querySelectorAll('.node.group').length") == 0
    assert chromium.complaints() == []


@needs_browser
def test_thresholds_hide_what_is_smaller(chromium, tmp_path):
    result = circuit_by_hand()
    floor = sorted(abs(one.attribution) for one in result.nodes)[5]
    chromium.open(drawn(result, tmp_path / "a.html"), f"#v=1&nodes={floor}&edges=0.5")
    kept = {str(one.feature) for one in result.nodes if abs(one.attribution) >= floor}
    seen = chromium.run("[...document.querySelectorAll('.node:not(.gone)')].map((one) => one.item.id)")
    assert {one for one in seen if "/" in one} == kept
    edges = [
        one
        for one in result.edges
        if abs(one.weight) >= 0.5 and str(one.source) in kept and (one.target is None or str(one.target) in kept)
    ]
    assert chromium.run("document.querySelectorAll('.back .edge:not(.gone)').length") == len(edges)


@needs_browser
def test_labels_are_written_as_the_library_reads_them(chromium, tmp_path):
    result = circuit_by_hand()
    first = result.nodes[0].feature
    view = result.view("mine", labels={"resid_post.9/7": "kept"}, groups={"both": [str(result.nodes[2].feature)]})
    chromium.open(drawn(result, tmp_path / "a.html", view))
    chromium.run(CATCH)
    chromium.press("ArrowUp")
    chromium.press("l")
    chromium.type("my own <b>")
    chromium.press("Enter")
    assert "my own <b>" in chromium.run("document.querySelector('.current').textContent")
    press_button(chromium, "Save")
    assert chromium.run("fileName") == "mine.labels.json"
    (tmp_path / "mine.labels.json").write_text(chromium.run("blob.text()"), "utf-8")
    labels, groups = read_words(tmp_path / "mine.labels.json")
    assert labels == {"resid_post.9/7": "kept", str(first): "my own <b>"}
    assert groups == {"both": [str(result.nodes[2].feature)]}
    result.save(tmp_path / "mine.json")
    assert open_circuit(tmp_path / "mine.json").node(first).label == "my own <b>"
    content = json.dumps(json.dumps({str(first): "from a file"}))
    chromium.run(
        'const field = document.querySelector("input[type=file]"), files = new DataTransfer();'
        f'files.items.add(new File([{content}], "a.json")); field.files = files.files;'
        'field.dispatchEvent(new Event("change")); 0'
    )
    chromium.run("new Promise((done) => setTimeout(done, 200))")
    assert "from a file" in chromium.run("document.querySelector('.current').textContent")


@needs_browser
def test_the_pages_own_exports(chromium, tmp_path):
    result = circuit_by_hand(word="<i>&")
    chromium.open(drawn(result, tmp_path / "a.html"))
    chromium.run(CATCH)
    press_button(chromium, "JSON")
    found = json.loads(chromium.run("blob.text()"))
    check_graph_json(found)
    expected = result.graph_json("mine")
    assert found["nodes"] == expected["nodes"] and found["metadata"] == expected["metadata"]
    by_ends = lambda links: sorted((one["source"], one["target"], one["weight"]) for one in links)  # noqa: E731
    assert by_ends(found["links"]) == by_ends(expected["links"])
    press_button(chromium, "SVG")
    picture = chromium.run("blob.text()")
    assert picture.startswith("<svg") and "var(" not in picture and "<i>" not in picture
    read = f"new DOMParser().parseFromString({json.dumps(picture)}, 'image/svg+xml')"
    assert chromium.run(f"{read}.querySelectorAll('path').length") > len(result.edges)
    press_button(chromium, "PNG")
    chromium.run("new Promise((done) => setTimeout(done, 1500))")
    assert chromium.run("fileName") == "mine.png"
    assert chromium.run("blob.arrayBuffer().then((all) => [...new Uint8Array(all.slice(1, 4))])") == list(b"PNG")
    assert chromium.complaints() == []


@needs_browser
def test_an_attribution_graph_in_the_page(chromium, tmp_path):
    public = graphs.to_neuronpedia(attribution_graph_by_hand(), "small", node_threshold=1, edge_threshold=1)
    path = tmp_path / "a.html"
    path.write_text(viewer_page(graph_view(public, "small")))
    chromium.open(path)
    assert chromium.run("document.querySelectorAll('.back .edge').length") == len(public["links"])
    chromium.run(CATCH)
    press_button(chromium, "JSON")
    again = json.loads(chromium.run("blob.text()"))
    check_graph_json(again)
    by_name = {one["node_id"]: one for one in public["nodes"]}
    assert {one["node_id"]: one for one in again["nodes"]} == by_name
    for key in ("ArrowUp", "ArrowUp", "ArrowDown", "Enter"):
        chromium.press(key)
    assert chromium.complaints() == []


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_narrow_screen_and_a_dark_one(chromium, tmp_path, dark):
    chromium.open(drawn(circuit_by_hand(), tmp_path / "a.html"), width=360, height=720, dark=dark)
    assert chromium.run("document.documentElement.scrollWidth") <= 360
    background = chromium.run("getComputedStyle(document.querySelector('.graph')).backgroundColor")
    assert (background == "rgb(16, 24, 31)") == dark


@needs_browser
def test_three_hundred_nodes_and_three_thousand_edges(chromium, tmp_path):
    result = circuit_by_hand(300, 3000, sites=tuple(f"resid_post.{layer}" for layer in range(1, 29, 3)))
    assert len(result.edges) == 3000
    path = drawn(result, tmp_path / "a.html")
    assert path.stat().st_size < 1_000_000
    chromium.open(path)
    assert int(chromium.run("document.documentElement.dataset.ready")) < 5000, "some 200 ms on a machine of its own"
    assert chromium.run("document.querySelectorAll('.back .edge').length") == 3000
    assert chromium.run("document.querySelectorAll('.back .edge:not(.gone)').length") == 250
    assert chromium.complaints() == []


def test_the_readings_keys_are_those_that_the_page_reads():
    page = circuit_by_hand().to_html()
    for key in set(READING) - {"label_from"}:
        assert re.search(rf'reading\.{key}\b|"{key}"', page), key
