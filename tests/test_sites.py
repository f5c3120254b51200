"""Sites and layers: every way to write one, what is refused, and that docs/sites.md tells the truth of every family."""

import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bathyscope.errors import SiteError, UsageError
from bathyscope.families import FAMILIES as ROWS
from bathyscope.model import Model
from bathyscope.sites import COMPONENTS, GLOBAL, PER_HEAD, Site, check_layer, parse_layers, residual_site
from conftest import tiny_model
from families import ALL, FAMILIES

LAYERED = sorted(set(COMPONENTS) - GLOBAL)
NUMBERS = st.integers(0, 200)

sites = st.one_of(
    st.sampled_from(sorted(GLOBAL)).map(Site),
    st.builds(Site, st.sampled_from(LAYERED), NUMBERS),
    st.builds(Site, st.sampled_from(sorted(PER_HEAD)), NUMBERS, NUMBERS),
)


@given(sites)
def test_a_site_is_read_back_from_what_is_printed(site: Site):
    assert Site.parse(str(site)) == site == Site.parse(site)
    assert eval(repr(site), {"Site": Site.parse}) == site
    assert hash(Site.parse(str(site))) == hash(site)


@given(sites, sites)
def test_different_sites_are_printed_differently(first: Site, second: Site):
    assert (str(first) == str(second)) == (first == second)


@given(st.text(st.sampled_from("abcdefghijklmnopqrstuvwxyz_.-0123456789 ²٣"), max_size=24))
@example("resid_post")
@example("resid_post.-1")
@example("resid_post.1.2")
@example("embed.3")
@example("logits.0")
@example("z.1.2.3")
@example("resid_post.1 ")
@example("")
def test_any_other_text_is_refused_with_a_remedy_that_works(text: str):
    try:
        site = Site.parse(text)
    except SiteError as error:
        assert "\n" not in str(error)
        assert Site.parse(error.remedy)
    else:
        assert site.component in text


TRANSFORMER_LENS = {
    "hook_embed": "embed",
    "ln_final.hook_normalized": "final_norm",
    "blocks.7.hook_resid_pre": "resid_pre.7",
    "blocks.7.hook_resid_mid": "resid_mid.7",
    "blocks.7.hook_resid_post": "resid_post.7",
    "blocks.7.hook_attn_out": "attn_out.7",
    "blocks.7.hook_mlp_out": "mlp_out.7",
    "blocks.7.attn.hook_q": "q.7",
    "blocks.7.attn.hook_k": "k.7",
    "blocks.7.attn.hook_v": "v.7",
    "blocks.7.attn.hook_z": "z.7",
    "blocks.7.attn.hook_pattern": "pattern.7",
    "blocks.7.mlp.hook_post": "mlp_post.7",
}


@pytest.mark.parametrize("name", TRANSFORMER_LENS)
def test_names_of_transformer_lens(name: str):
    assert str(Site.parse(name)) == TRANSFORMER_LENS[name]


@pytest.mark.parametrize("name", ["blocks.7.hook_out", "blocks.hook_resid_post", "blocks.7.attn.hook_result"])
def test_names_of_transformer_lens_for_what_is_no_site_here(name: str):
    with pytest.raises(SiteError, match=re.escape(repr(name))):
        Site.parse(name)


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_module_path_names_the_site_that_is_met_there(name: str):
    model = tiny_model(name)
    for component in ("embed", "resid_pre", "resid_post", "attn_out", "mlp_out", "final_norm", "mlp_post"):
        site = Site(component, None if component in GLOBAL else model.n_layers - 1)
        try:
            tap = model.tap(site)
        except SiteError:
            continue
        path = model.architecture.module_path(site) + (":in" if tap.side == "in" else "")
        assert model.site(path) == site == model.site(str(site))


def test_a_module_path_that_names_no_site_is_refused(llama: Model):
    for path in ("model.layers.1.mlp.act_fn", "model.layers.99.mlp", "model.layers.1.mlp:out:in"):
        with pytest.raises(SiteError, match=re.escape(repr(path))):
            llama.site(path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("residual", 3), "no component is called 'residual'"),
        (("resid_post",), "resid_post was given layer None"),
        (("resid_post", -1), "never from the end"),
        (("final_norm", 3), "it has no layer"),
        (("resid_post", 3, 0), "only k, pattern, q, v, z have heads"),
        (("z", 3, -1), "only k, pattern, q, v, z have heads"),
    ],
)
def test_what_is_no_site_is_refused_by_name(arguments: tuple, said: str):
    with pytest.raises(SiteError, match=re.escape(said)) as caught:
        Site(*arguments)
    assert caught.value.remedy in COMPONENTS or Site.parse(caught.value.remedy)


def test_the_embedding_is_layer_minus_one():
    assert Site("embed").layer == -1
    assert residual_site(-1) == Site("embed") == Site.parse("embed")
    assert residual_site(0) == Site("resid_post", 0)


@pytest.mark.parametrize("arguments", [("resid_post", 4), ("z", 0, 4), ("k", 0, 2), ("mlp_out", 99)])
def test_a_layer_or_head_that_the_model_lacks_is_refused(llama: Model, arguments: tuple):
    with pytest.raises(SiteError, match=r"(blocks 0 to 3|heads 0 to [13]) ?"):
        llama.site(Site(*arguments))


# Layers

parts = st.one_of(
    st.just("all"),
    st.sampled_from(["embed", "-1"]),
    st.integers(0, 11).map(str),
    st.tuples(st.integers(0, 11), st.integers(0, 11)).map(lambda ends: f"{min(ends)}-{max(ends)}"),
)


def read(part: str) -> list[int]:
    """What one part of a choice means among twelve layers."""
    if part == "all":
        return list(range(-1, 12))
    if part in ("embed", "-1"):
        return [-1]
    first, _, last = part.partition("-")
    return list(range(int(first), int(last or first) + 1))


@given(st.lists(parts, min_size=1, max_size=5), st.sampled_from([",", ", "]))
def test_a_choice_of_layers_is_its_parts_in_order_and_each_once(chosen: list[str], comma: str):
    wanted = [layer for part in chosen for layer in read(part)]
    assert parse_layers(comma.join(chosen), n_layers=12) == tuple(dict.fromkeys(wanted))


@given(st.integers(-3, 15))
def test_one_layer_as_a_number_or_as_text(layer: int):
    if -1 <= layer < 12:
        assert parse_layers(layer, 12) == parse_layers(str(layer), 12) == (layer,)
    else:
        with pytest.raises(SiteError, match="never counted from the end|not a choice of layers"):
            parse_layers(layer, 12)


@pytest.mark.parametrize("text", ["", ",", "3,", "last", "3..7", "0-", "-2", "1.5", "all blocks", "3 7", "0-3-5", "+1"])
def test_what_is_no_choice_of_layers_is_refused(text: str):
    with pytest.raises(SiteError, match="not a choice of layers") as caught:
        parse_layers(text, 12)
    assert parse_layers(caught.value.remedy, 12)


def test_layers_that_run_backwards_are_turned_round_in_the_remedy():
    with pytest.raises(SiteError, match="backwards") as caught:
        parse_layers("7-3", 12)
    assert parse_layers(caught.value.remedy, 12) == (3, 4, 5, 6, 7)


@pytest.mark.parametrize("layer", [-2, 12, 400])
def test_a_layer_that_does_not_exist_is_refused_with_those_that_do(layer: int):
    with pytest.raises(
        SiteError, match=rf"layer {layer} does not exist; this model has layers -1 .* 0 to 11"
    ) as caught:
        check_layer(layer, 12)
    assert parse_layers(caught.value.remedy, 12) == tuple(range(12))


@pytest.mark.xfail(reason="a layer given to embed is dropped in silence")
def test_a_layer_given_to_the_embedding_is_refused():
    with pytest.raises(SiteError, match="embed"):
        Site("embed", 5)


@pytest.mark.xfail(reason="a site with a head and one without cannot be compared")
def test_sites_can_be_sorted():
    names = ["z.1.3", "z.1", "embed", "z.1.0", "logits", "resid_post.0"]
    assert sorted(map(Site.parse, names)) == sorted(map(Site.parse, reversed(names)))


def test_a_site_error_is_a_usage_error():
    assert issubclass(SiteError, UsageError)
    assert SiteError("").exit_code == 2


# docs/sites.md

PAGE = (Path(__file__).parents[1] / "docs/sites.md").read_text("utf-8").splitlines()
ORDINARY = {family.family: name for name, family in reversed(FAMILIES.items())}
"""The tiny model of each supported `model_type`."""


def met_at(model: Model, component: str) -> str:
    """Where the last block that has a site has it, as the table of docs/sites.md says it."""
    found = "-"
    for layer in range(model.n_layers):
        try:
            tap = model.tap(Site(component, layer))
        except SiteError:
            continue
        found = f"`{tap.module}`" + (" in" if tap.side == "in" else "")
    return found


def row(family: str) -> str:
    model = tiny_model(ORDINARY[family])
    heads = " ".join(dict.fromkeys(met_at(model, component) for component in "qkv"))
    cells = [f"`{family}`", *(met_at(model, name) for name in ("resid_mid", "attn_out", "mlp_out"))]
    return "| " + " | ".join([*cells, heads, met_at(model, "z"), met_at(model, "mlp_post")]) + " |"


def test_the_docs_list_every_component_in_order_with_its_meaning():
    lines = [f"| `{name}` | {meaning} |" for name, meaning in COMPONENTS.items()]
    start = PAGE.index(lines[0])
    assert PAGE[start : start + len(lines)] == lines
    assert PAGE[start + len(lines)] == ""


@pytest.mark.parametrize("family", sorted(ROWS))
def test_the_docs_say_where_a_family_keeps_each_component(family: str):
    assert row(family) in PAGE


def test_the_docs_list_no_other_family():
    listed = [line.split("`")[1] for line in PAGE if re.match(r"\| `\w+` \| (-|`\S+` in) \|", line)]
    assert listed == sorted(ROWS)


VARIANTS = {
    "gpt_neox_sequential": ("resid_mid", True),
    "stablelm_parallel": ("resid_mid", False),
    "falcon_rw": ("resid_mid", True),
    "qwen3_moe_one_dense": ("mlp_post", True),
    "opt_post_norm": ("attn_out", False),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_form_of_a_family_has_what_the_docs_say(name: str):
    component, there = VARIANTS[name]
    assert (met_at(tiny_model(name), component) != "-") == there
    assert (met_at(tiny_model(ORDINARY[ALL[name].family]), component) != "-") != there
    notes = " ".join(PAGE).partition("by its config")[2]
    assert re.search(rf"`{ALL[name].family}`[^.]*`{component}`", notes)
