"""Files of sparse coders: every architecture of every format, against its equations written out here.

What hostile files do is in `test_sae_hostile_files`.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bathyscope.errors import BathyscopeWarning, StorageError, UsageError
from bathyscope.sae import KeepAbove, KeepTop, SparseCoder, coder_folders, load_coder, save_coder
from bathyscope.sae.formats import archives, base, find_coder, hub, writable
from bathyscope.sae.formats.saelens import hook_name
from bathyscope.sites import COMPONENTS, GLOBAL, Site

D, N, K, OUT = 6, 20, 3, 4
"""Width, latents, latents kept, and the width of what a transcoder writes."""

Equations = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Of inputs, the latents and the output."""


@pytest.fixture
def x() -> Tensor:
    return draw(30, D, seed=99) * 2 + 0.3


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def relu(z: Tensor) -> Tensor:
    return torch.where(z > 0, z, torch.zeros(()).to(z))


def largest(z: Tensor, k: int) -> Tensor:
    """What is among the k largest of its row, where it is positive, by counting how many are larger."""
    return relu(z) * ((z[:, None, :] > z[:, :, None]).sum(-1) < k)


def assert_computes(coder: SparseCoder, equations: Equations, x: Tensor, tolerance: float = 1e-12) -> None:
    latents, output = equations(x)
    assert 0 < (latents != 0).double().mean() < 1, "the case shows nothing"
    code = coder.encode(x).dense()
    assert torch.equal(code != 0, latents != 0)
    torch.testing.assert_close(code, latents, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(coder.reconstruct(x), output, rtol=tolerance, atol=tolerance)


# Others' folders, as they write them


def parts(d_out: int = D, seed: int = 0) -> dict[str, Tensor]:
    """Weights as SAELens names them."""
    return {
        "W_enc": draw(D, N, seed=seed),
        "b_enc": draw(N, seed=seed + 1) * 0.5,
        "W_dec": draw(N, d_out, seed=seed + 2),
        "b_dec": draw(d_out, seed=seed + 3),
    }


def write_saelens(folder: Path, cfg: dict, tensors: dict[str, Tensor], *, old: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    cfg = {"d_in": D, "d_sae": N, "dtype": "float64", "device": "cpu", **cfg}
    if not old:
        cfg["metadata"] = {"sae_lens_version": "6.18.0", "hook_name": "blocks.5.hook_resid_post", "model_name": "gpt2"}
        cfg["metadata"] |= cfg.pop("more", {})
    (folder / "cfg.json").write_text(json.dumps(cfg))
    save_file(tensors, folder / "sae_weights.safetensors")
    return folder


def write_sparsify(folder: Path, cfg: dict, seed: int = 0) -> tuple[Path, dict[str, Tensor]]:
    folder.mkdir(parents=True)
    tensors = {
        "encoder.weight": draw(N, D, seed=seed),
        "encoder.bias": draw(N, seed=seed + 1),
        "W_dec": draw(N, D, seed=seed + 2),
        "b_dec": draw(D, seed=seed + 3),
        "W_skip": draw(D, D, seed=seed + 4),
    }
    usual = {"activation": "topk", "expansion_factor": 32, "normalize_decoder": True, "num_latents": N, "k": K}
    usual |= {"multi_topk": False, "skip_connection": False, "transcode": False, "d_in": D}
    cfg = {**usual, **cfg}
    if not cfg["skip_connection"]:
        del tensors["W_skip"]
    (folder / "cfg.json").write_text(json.dumps(cfg))
    save_file(tensors, folder / "sae.safetensors")
    return folder, tensors


def write_dictionary(folder: Path, tensors: dict, trainer: dict | None) -> Path:
    folder.mkdir(parents=True)
    torch.save(tensors, folder / "ae.pt")
    if trainer is not None:
        usual = {"layer": 3, "lm_name": "EleutherAI/pythia-70m-deduped", "submodule_name": "resid_post_layer_3"}
        (folder / "config.json").write_text(json.dumps({"trainer": {**usual, **trainer}, "buffer": {"ctx_len": 128}}))
    return folder


# Bathyscope's own


def coders() -> dict[str, SparseCoder]:
    def made(d_out: int = D, **more: object) -> SparseCoder:
        weights = {name: value.float() for name, value in parts(d_out).items()}
        usual = {"selection": KeepTop(K), "site": Site("resid_post", 3), "target": Site("resid_post", 3)}
        usual |= {"model": {"model": "tiny", "fingerprint": "ab"}, "training": {"k": 3, "lr": 1e-3, "seeds": [1, 2]}}
        return SparseCoder(
            weights["W_enc"].T, weights["b_enc"], weights["W_dec"], weights["b_dec"], **{**usual, **more}
        )

    bias, other = draw(D, seed=3).float(), draw(D, seed=7).float()
    return {
        "top": made(),
        "tied": made(centre=bias),
        "centred": made(centre=other),
        "relu": made(selection=KeepAbove(torch.tensor(0.0)), centre=bias),
        "one threshold": made(selection=KeepAbove(torch.tensor(0.7))),
        "thresholds": made(selection=KeepAbove(draw(N, seed=8).abs().float()), centre=other),
        "normed": made(normed=True, centre=bias),
        "skip": made(target=Site("mlp_out", 3), skip=draw(D, D, seed=9).float()),
        "transcoder": made(OUT, target=Site("mlp_out", 3), selection=KeepAbove(draw(N, seed=8).abs().float())),
        "skipping relu transcoder": made(
            target=Site("mlp_out", 3), selection=KeepAbove(torch.tensor(0.0)), skip=draw(D, D, seed=9).float()
        ),
        "nowhere": made(site=None, target=None, model={}, training={}),
    }


CODERS = coders()


@pytest.mark.parametrize("name", CODERS)
def test_what_is_saved_is_read_to_the_last_bit(tmp_path, x, name):
    coder = CODERS[name]
    folder = save_coder(coder, tmp_path / "a" / "b")
    assert folder == tmp_path / "a" / "b"
    assert {one.name for one in folder.iterdir()} == {"cfg.json", "coder.safetensors"}
    found = load_coder(folder)
    for entry in ("normed", "site", "target", "model", "training"):
        assert getattr(found, entry) == getattr(coder, entry), entry
    assert found.selection.spec() == coder.selection.spec()
    assert found.fingerprint == coder.fingerprint
    assert found.tensors().keys() == coder.tensors().keys()
    for tensor, wanted in coder.tensors().items():
        assert torch.equal(found.tensors()[tensor], wanted), tensor
    again = load_coder(save_coder(found, tmp_path / "again"))
    assert torch.equal(again.encode(x.float()).dense(), found.encode(x.float()).dense())
    assert torch.equal(again.reconstruct(x.float()), found.reconstruct(x.float()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes_are_kept(tmp_path, dtype):
    coder = SparseCoder(*(draw(*s, seed=1, dtype=dtype) for s in ((N, D), (N,), (N, D), (D,))), KeepTop(K))
    assert load_coder(save_coder(coder, tmp_path)).fingerprint == coder.fingerprint


def test_the_caller_says_where_a_coder_belongs(tmp_path):
    folder = save_coder(CODERS["nowhere"], tmp_path)
    assert load_coder(folder).site is None
    found = load_coder(folder, site="resid_post.7")
    assert (found.site, found.target, found.is_transcoder) == (Site("resid_post", 7), Site("resid_post", 7), False)
    found = load_coder(folder, site=Site("resid_mid", 7), target="mlp_out.7")
    assert found.is_transcoder and found.target == Site("mlp_out", 7)
    known = save_coder(CODERS["skip"], tmp_path / "skip")
    assert (load_coder(known, site="resid_mid.3").site, load_coder(known).target) == (
        Site("resid_mid", 3),
        Site("mlp_out", 3),
    )


def test_a_save_that_is_cut_short_is_told_and_one_of_two_coders_as_well(tmp_path, monkeypatch):
    folder = save_coder(CODERS["top"], tmp_path / "one")
    write, names = base.write_atomically, []

    def interrupted(path: Path, content: bytes) -> None:
        names.append(path.name)
        if path.name == "cfg.json":
            raise StorageError("the disk is full")
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(base, "write_atomically", interrupted)
        with pytest.raises(StorageError, match="the disk is full"):
            save_coder(CODERS["relu"], folder)
    assert names == ["coder.safetensors", "cfg.json"], "what says what the other holds is written last"
    with pytest.raises(StorageError, match="does not hold what cfg.json beside it was written for"):
        load_coder(folder)
    assert load_coder(save_coder(CODERS["relu"], folder)).fingerprint == CODERS["relu"].fingerprint
    with monkeypatch.context() as patch:
        patch.setattr(base, "write_atomically", interrupted)
        with pytest.raises(StorageError):
            save_coder(CODERS["relu"], tmp_path / "new")
    with pytest.raises(StorageError, match="it has coder.safetensors"):
        load_coder(tmp_path / "new")


@pytest.mark.parametrize("format", ["saelens", "sparsify"])
def test_folders_for_others_are_fingerprinted_as_well(tmp_path, format):
    one, other = (save_coder(CODERS[name], tmp_path / name, format=format) for name in ("tied", "centred"))
    weights = writable(format).weights
    (one / weights).write_bytes((other / weights).read_bytes())
    with pytest.raises(StorageError, match="the folder was mixed"):
        load_coder(one)


def test_coder_folders(tmp_path):
    for site in ("resid_post.12", "resid_post.3", "mlp_out.3"):
        save_coder(CODERS["top"], tmp_path / site)
    (tmp_path / "plots").mkdir()
    (tmp_path / "mlp_out.9").mkdir()
    (tmp_path / "mlp_out.9" / "coder.safetensors").write_bytes(b"")  # a save that was cut short
    assert [one.name for one in coder_folders(tmp_path)] == ["mlp_out.3", "resid_post.3", "resid_post.12"]
    assert coder_folders(tmp_path / "mlp_out.3") == [tmp_path / "mlp_out.3"]
    with pytest.raises(StorageError, match=r"mlp_out.3"):
        load_coder(tmp_path)
    for nothing in (tmp_path / "plots", tmp_path / "none"):
        with pytest.raises(StorageError, match="no coder"):
            coder_folders(nothing)


# SAELens


def saelens_equations(cfg: dict, w: dict[str, Tensor]) -> Equations:
    """Its inference, one architecture after the other."""

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        mean, deviation = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
        given, architecture = x, cfg["architecture"]
        if cfg.get("normalize_activations") == "layer_norm":
            x = (x - mean) / (deviation + 1e-5)
        x = x * cfg.get("scale", 1.0)
        if cfg.get("apply_b_dec_to_input", True) and "transcoder" not in architecture:
            x = x - w["b_dec"]
        if architecture == "gated":
            p = x @ w["W_enc"]
            latents = (p + w["b_gate"] > 0) * relu(p * w["r_mag"].exp() + w["b_mag"])
        else:
            z = x @ w["W_enc"] + w["b_enc"]
            norms = w["W_dec"].norm(dim=1) if cfg.get("rescale_acts_by_decoder_norm") else torch.ones(())
            if architecture == "topk":
                latents = largest(z * norms, cfg["k"])
            elif "jumprelu" in architecture:
                latents = relu(z) * (z > w["threshold"])
            else:
                latents = relu(z)
        norms = w["W_dec"].norm(dim=1) if cfg.get("rescale_acts_by_decoder_norm") else torch.ones(())
        output = ((latents / norms) @ w["W_dec"] + w["b_dec"]) / cfg.get("scale", 1.0)
        if "skip" in architecture:
            output = output + given @ w["W_skip"].T
        return latents, output * deviation + mean if cfg.get("normalize_activations") == "layer_norm" else output

    return run


ARCHITECTURES: list[dict] = [
    {"architecture": "standard"},
    {"architecture": "standard", "apply_b_dec_to_input": False},
    {"architecture": "standard", "normalize_activations": "layer_norm"},
    {"architecture": "gated"},
    {"architecture": "gated", "apply_b_dec_to_input": False},
    {"architecture": "topk", "k": K},
    {"architecture": "topk", "k": K, "normalize_activations": "layer_norm"},
    {"architecture": "topk", "k": K, "rescale_acts_by_decoder_norm": True},
    {"architecture": "jumprelu"},
    {"architecture": "jumprelu", "apply_b_dec_to_input": False},
    {"architecture": "transcoder", "d_out": OUT},
    {"architecture": "skip_transcoder", "d_out": OUT},
    {"architecture": "jumprelu_transcoder", "d_out": OUT},
    {"architecture": "jumprelu_skip_transcoder", "d_out": OUT},
]


def saelens_weights(cfg: dict) -> dict[str, Tensor]:
    found = parts(cfg.get("d_out", D))
    if cfg["architecture"] == "gated":
        del found["b_enc"]
        found |= {"b_gate": draw(N, seed=5), "b_mag": draw(N, seed=6) * 0.5, "r_mag": draw(N, seed=7) * 0.5}
    if "jumprelu" in cfg["architecture"]:
        found["threshold"] = draw(N, seed=8) + 0.5  # some below 0, where the ReLU decides
    if "skip" in cfg["architecture"]:
        found["W_skip"] = draw(OUT, D, seed=9)
    return found


@pytest.mark.parametrize("cfg", ARCHITECTURES, ids=lambda cfg: " ".join(map(str, cfg.values())))
def test_saelens_architectures(tmp_path, x, cfg):
    weights = saelens_weights(cfg)
    more = {"hook_name_out": "blocks.5.hook_mlp_out"} if "d_out" in cfg else {}
    coder = load_coder(write_saelens(tmp_path, {**cfg, "more": more}, weights))
    assert_computes(coder, saelens_equations(cfg, weights), x)
    assert (coder.site, coder.model["model"]) == (Site("resid_post", 5), "gpt2")
    assert coder.target == (Site("mlp_out", 5) if more else coder.site)
    assert coder.is_transcoder == ("d_out" in cfg)


def test_a_gate_is_a_threshold_and_both_are_strict(tmp_path):
    """One latent a case; sums of small whole numbers, so that nothing is rounded on either side of a boundary."""
    gates, values = torch.arange(-3.0, 4).repeat_interleave(7), torch.arange(-3.0, 4).repeat(7)
    weights = {"W_enc": torch.ones(1, 49), "W_dec": torch.ones(49, 1), "b_dec": torch.zeros(1)}
    weights |= {"b_gate": gates, "b_mag": values, "r_mag": torch.zeros(49)}
    coder = load_coder(write_saelens(tmp_path, {"architecture": "gated", "d_in": 1, "d_sae": 49}, weights))
    for p in range(-4, 5):
        wanted = [(max(p + value, 0.0) if p + gate > 0 else 0.0) for gate, value in zip(gates, values, strict=True)]
        assert coder.encode(torch.tensor([[float(p)]])).dense()[0].tolist() == [float(one) for one in wanted]


@pytest.mark.parametrize("cfg", ARCHITECTURES[:2] + ARCHITECTURES[3:6] + ARCHITECTURES[7:10], ids=str)
def test_item_23_scales_and_norms_are_folded_without_a_change(tmp_path, x, cfg):
    """Biases and thresholds of latents stay as they are, whatever the architecture."""
    cfg = {**cfg, "normalize_activations": "expected_average_only_in"}
    weights = saelens_weights(cfg)
    folder = write_saelens(tmp_path, cfg, weights)
    (folder / "activation_scaler.json").write_text('{"scaling_factor": 0.37}')
    assert_computes(load_coder(folder), saelens_equations({**cfg, "scale": 0.37}, weights), x)


OLD: dict[str, tuple[dict, dict]] = {
    "hook_point": ({"hook_point": "blocks.5.hook_resid_pre"}, {"architecture": "standard"}),
    "topk": (
        {"hook_name": "blocks.5.hook_resid_pre", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}},
        {"architecture": "topk", "k": K},
    ),
    "not normalised": (
        {"hook_name": "blocks.5.hook_resid_pre", "normalize_activations": False},
        {"architecture": "standard"},
    ),
    "no bias": (
        {"hook_name": "blocks.5.hook_resid_pre", "apply_b_dec_to_input": False, "sae_lens_version": "5.10.1"},
        {"architecture": "standard", "apply_b_dec_to_input": False},
    ),
    "gated": ({"hook_name": "blocks.5.hook_resid_pre", "architecture": "gated"}, {"architecture": "gated"}),
}


@pytest.mark.parametrize("name", OLD)
def test_saelens_before_version_6(tmp_path, x, name):
    flat, cfg = OLD[name]
    weights = saelens_weights(cfg)
    coder = load_coder(write_saelens(tmp_path, {"model_name": "gpt2-small", **flat}, weights, old=True))
    assert_computes(coder, saelens_equations(cfg, weights), x)
    assert (coder.site, coder.model["model"]) == (Site("resid_pre", 5), "gpt2-small")


def test_saelens_hooks_are_sites_and_what_is_none_is_left_open(tmp_path):
    for component in sorted(set(COMPONENTS) - {"logits"}):
        site = Site(component, None if component in GLOBAL else 4)
        assert Site.parse(hook_name(site)) == site
    folder = write_saelens(tmp_path, {"architecture": "standard"}, parts())
    for hook, head, wanted in (
        ("blocks.4.attn.hook_z", None, Site("z", 4)),
        ("blocks.4.attn.hook_q", 2, Site("q", 4, 2)),
        ("blocks.4.ln2.hook_normalized", None, None),
    ):
        write_saelens(
            folder, {"architecture": "standard", "more": {"hook_name": hook, "hook_head_index": head}}, parts()
        )
        assert load_coder(folder).site == wanted
    assert load_coder(folder, site="resid_mid.4").site == Site("resid_mid", 4)
    assert load_coder(folder).training["cfg"]["metadata"]["hook_name"] == "blocks.4.ln2.hook_normalized"


def test_factors_of_early_saelens_are_folded(tmp_path, x):
    weights = {**parts(), "scaling_factor": draw(N, seed=4).abs() + 0.5}
    flat = {"hook_point": "blocks.5.hook_resid_pre", "finetuning_scaling_factor": True}
    coder = load_coder(write_saelens(tmp_path, flat, weights, old=True))

    def equations(x: Tensor) -> tuple[Tensor, Tensor]:
        latents = relu((x - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"])
        return latents, (latents * weights["scaling_factor"]) @ weights["W_dec"] + weights["b_dec"]

    assert_computes(coder, equations, x)
    flat["finetuning_scaling_factor"] = False
    with pytest.raises(StorageError, match="scaling_factor"):
        load_coder(write_saelens(tmp_path, flat, weights, old=True))
    ones = {**weights, "scaling_factor": torch.ones(N)}
    assert_computes(
        load_coder(write_saelens(tmp_path, flat, ones, old=True)),
        saelens_equations({"architecture": "standard"}, ones),
        x,
    )


@pytest.mark.parametrize(
    ("cfg", "said"),
    [
        ({"architecture": "standard", "normalize_activations": "constant_norm_rescale"}, "brought to one norm"),
        ({"architecture": "standard", "normalize_activations": "covariance_whitening"}, "whitened with"),
        ({"architecture": "standard", "normalize_activations": "expected_average_only_in"}, "fold_activation_norm"),
        ({"architecture": "standard", "normalize_activations": "wild"}, "wild"),
        ({"architecture": "transcoder", "d_out": D, "normalize_activations": "layer_norm"}, "transcoder reads"),
        ({"architecture": "matching_pursuit"}, "matching_pursuit"),
        ({"architecture": "topk"}, "has no k"),
        ({"architecture": "topk", "k": 0}, "k=0"),
        ({"architecture": "topk", "k": True}, "k=True"),
        ({"architecture": "transcoder"}, "has no d_out"),
        ({"architecture": "jumprelu"}, "has no threshold"),
        ({"architecture": "gated"}, "has no r_mag"),
        ({"architecture": 3}, "architecture=3"),
        ({"architecture": "standard", "d_sae": "20"}, "d_sae='20'"),
        ({"architecture": "standard", "d_sae": N + 1}, r"\(6, 21\) is needed"),
    ],
    ids=str,
)
def test_what_is_refused_of_saelens_and_why(tmp_path, cfg, said):
    with pytest.raises(StorageError, match=said):
        load_coder(write_saelens(tmp_path, cfg, parts()))


def test_an_activation_that_is_no_relu_is_refused(tmp_path):
    with pytest.raises(StorageError, match="tanh-relu"):
        load_coder(write_saelens(tmp_path, {"hook_point": "x", "activation_fn_str": "tanh-relu"}, parts(), old=True))


# sparsify


def sparsify_equations(cfg: dict, w: dict[str, Tensor]) -> Equations:
    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        given = x if cfg.get("transcode") else x - w["b_dec"]
        latents = largest(given @ w["encoder.weight"].T + w["encoder.bias"], K)
        output = latents @ w["W_dec"] + w["b_dec"]
        return latents, output + x @ w["W_skip"].mT if cfg.get("skip_connection") else output

    return run


@pytest.mark.parametrize(
    "cfg",
    [
        {},
        {"normalize_decoder": False},
        {"transcode": True},
        {"transcode": True, "skip_connection": True},
        {"skip_connection": True},
    ],
    ids=str,
)
def test_sparsify(tmp_path, x, cfg):
    folder, weights = write_sparsify(tmp_path / "layers.5", cfg)
    coder = load_coder(folder)
    assert_computes(coder, sparsify_equations(cfg, weights), x)
    assert coder.target == Site("resid_post", 5)
    assert coder.site == (None if cfg.get("transcode") else Site("resid_post", 5))


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("layers.5", Site("resid_post", 5)),
        ("h.5", Site("resid_post", 5)),
        ("gpt_neox.layers.5", Site("resid_post", 5)),
        ("embed_tokens", Site("embed")),
        ("layers.5.mlp", None),
        ("mine", None),
    ],
)
def test_hookpoints_of_sparsify(tmp_path, name, site):
    coder = load_coder(write_sparsify(tmp_path / name, {})[0])
    assert (coder.site, coder.training["hookpoint"]) == (site, name)


def test_reference_bug_saelens_transposes_the_decoder_of_sparsify(tmp_path):
    folder, weights = write_sparsify(tmp_path / "layers.5", {})
    assert torch.equal(load_coder(folder).decoder, weights["W_dec"])


def test_reference_bug_saelens_takes_num_latents_0_literally(tmp_path, x):
    folder, weights = write_sparsify(tmp_path / "layers.5", {"num_latents": 0, "expansion_factor": 2})
    save_file(
        {name: one[: 2 * D] if len(one) == N else one for name, one in weights.items()}, folder / "sae.safetensors"
    )
    assert load_coder(folder).n_latents == 2 * D


def test_reference_bug_saelens_lets_normalize_decoder_decide_whether_b_dec_is_taken_from_inputs(tmp_path, x):
    for normed in (True, False):
        folder, weights = write_sparsify(tmp_path / f"{normed}" / "layers.5", {"normalize_decoder": normed})
        assert torch.equal(load_coder(folder).centre, weights["b_dec"])
        assert load_coder(write_sparsify(tmp_path / f"{normed}.mlp", {"transcode": True})[0]).centre is None


@pytest.mark.parametrize(
    ("cfg", "said"),
    [({"activation": "groupmax"}, "groupmax"), ({"signed": True}, "a signed code"), ({"k": -1}, "k=-1")],
)
def test_what_is_refused_of_sparsify(tmp_path, cfg, said):
    with pytest.raises(StorageError, match=said):
        load_coder(write_sparsify(tmp_path / "layers.5", cfg)[0])


# dictionary_learning


def dictionary(kind: str, threshold: float = 0.8) -> tuple[dict[str, Tensor], Equations]:
    """A state dict as each class saves it, and what the class computes."""
    w = parts()
    encoder, bias, decoder, b_dec = w["W_enc"], w["b_enc"], w["W_dec"], w["b_dec"]
    linear = {"encoder.weight": encoder.T.contiguous(), "decoder.weight": decoder.T.contiguous()}
    extra = {"k": torch.tensor(K, dtype=torch.int), "threshold": torch.tensor(threshold)}
    thresholds, groups = draw(N, seed=8).abs(), torch.tensor([4, N - 4])
    r, gate, mag = draw(N, seed=7) * 0.5, draw(N, seed=5), draw(N, seed=6)
    norms = decoder.norm(dim=1)

    def read(centred: bool = True) -> Callable[[Tensor], Tensor]:
        return lambda x: (x - b_dec if centred else x) @ encoder

    def equations(latents: Callable[[Tensor], Tensor], rows: Tensor = decoder) -> Equations:
        return lambda x: (latents(x), latents(x) @ rows + b_dec)

    def above(x: Tensor) -> Tensor:
        z = relu(read()(x) + bias)
        return z * (z > threshold)

    p, raw = read(), read(centred=False)
    return {
        # This class norms its decoder whenever it is loaded.
        "AutoEncoder": (
            {**linear, "encoder.bias": bias, "bias": b_dec},
            equations(lambda x: relu(p(x) + bias) * norms, decoder / norms[:, None]),
        ),
        "AutoEncoderNew": (
            {**linear, "encoder.bias": bias, "decoder.bias": b_dec},
            equations(lambda x: relu(raw(x) + bias)),
        ),
        "GatedAutoEncoder": (
            {**linear, "decoder_bias": b_dec, "r_mag": r, "gate_bias": gate, "mag_bias": mag},
            equations(lambda x: (p(x) + gate > 0) * relu(r.exp() * p(x) + mag)),
        ),
        "AutoEncoderTopK": (
            {**linear, "encoder.bias": bias, "b_dec": b_dec, **extra},
            equations(lambda x: largest(relu(p(x) + bias), K)),
        ),
        "BatchTopKSAE": ({**linear, "encoder.bias": bias, "b_dec": b_dec, **extra}, equations(above)),
        "JumpReluAutoEncoder": (
            {**w, "threshold": thresholds},
            equations(lambda x: relu((raw(x) + bias) * (raw(x) + bias > thresholds))),
        ),
        "MatryoshkaBatchTopKSAE": ({**w, **extra, "group_sizes": groups}, equations(above)),
    }[kind]


CLASSES = ["AutoEncoder", "AutoEncoderNew", "GatedAutoEncoder", "AutoEncoderTopK"]
CLASSES += ["BatchTopKSAE", "JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE"]


@pytest.mark.parametrize("kind", CLASSES)
def test_dictionary_learning(tmp_path, x, kind):
    tensors, equations = dictionary(kind)
    coder = load_coder(write_dictionary(tmp_path / "trainer_0", tensors, {"dict_class": kind}))
    assert_computes(coder, equations, x)
    assert coder.site == coder.target == Site("resid_post", 3)
    assert coder.model["model"] == "EleutherAI/pythia-70m-deduped"
    torch.save(tensors, tmp_path / "other.pt")  # without config.json beside it
    if kind in ("AutoEncoderTopK", "BatchTopKSAE"):
        with pytest.raises(StorageError, match="AutoEncoderTopK or BatchTopKSAE, which save the same"):
            load_coder(tmp_path / "other.pt")
    else:
        assert_computes(load_coder(tmp_path / "other.pt"), equations, x)


def test_reference_bug_saelens_reads_batchtopk_without_its_threshold(tmp_path):
    tensors, _ = dictionary("BatchTopKSAE", threshold=0.625)
    coder = load_coder(write_dictionary(tmp_path / "trainer_0", tensors, {"dict_class": "BatchTopKSAE"}))
    assert isinstance(coder.selection, KeepAbove) and float(coder.selection.threshold) == 0.625


def test_reference_bug_one_coder_under_parallel_names_is_one_coder(tmp_path):
    """Linear layers and matrices hold the same, transposed."""
    linear, _ = dictionary("BatchTopKSAE")
    matrices, _ = dictionary("MatryoshkaBatchTopKSAE")
    one = load_coder(write_dictionary(tmp_path / "a", linear, {"dict_class": "BatchTopKSAE"}))
    assert one.fingerprint == load_coder(write_dictionary(tmp_path / "b", matrices, None)).fingerprint


def test_a_threshold_that_was_never_measured_is_told(tmp_path, x):
    tensors, _ = dictionary("BatchTopKSAE", threshold=-1.0)
    folder = write_dictionary(tmp_path / "trainer_0", tensors, {"dict_class": "BatchTopKSAE"})
    with pytest.warns(BathyscopeWarning, match="has no threshold"):
        coder = load_coder(folder)
    _, wanted = dictionary("AutoEncoderTopK")
    assert (coder.encode(x).l0() > wanted(x)[0].count_nonzero(-1)).any()


def test_a_file_is_claimed_without_its_tensors_being_read(tmp_path, monkeypatch):
    """Every format is asked; the numbers are read once, by the one that loads."""
    width, n_latents, read = 6, 9, []
    shapes = {"bias": (width,), "encoder.weight": (n_latents, width), "encoder.bias": (n_latents,)}
    tensors = {name: torch.randn(shape) for name, shape in {**shapes, "decoder.weight": (width, n_latents)}.items()}
    torch.save(tensors, tmp_path / "ae.pt")
    (tmp_path / "config.json").write_text("{}")
    own = archives._own
    monkeypatch.setattr(archives, "_own", lambda path, name, value: read.append(name) or own(path, name, value))
    assert load_coder(tmp_path).n_latents == n_latents
    assert sorted(read) == sorted(tensors)


def test_what_is_refused_of_dictionary_learning(tmp_path):
    tensors, _ = dictionary("JumpReluAutoEncoder")
    with pytest.raises(StorageError, match="says that ae.pt is a GatedAutoEncoder"):
        load_coder(write_dictionary(tmp_path / "a", tensors, {"dict_class": "GatedAutoEncoder"}))
    tensors, _ = dictionary("MatryoshkaBatchTopKSAE")
    tensors["group_sizes"][0] = 3
    with pytest.raises(StorageError, match="groups of 19 latents; there are 20"):
        load_coder(write_dictionary(tmp_path / "b", tensors, None))
    del tensors["b_dec"]
    with pytest.raises(StorageError, match="no coder that is recognised"):
        load_coder(write_dictionary(tmp_path / "c", tensors, None))


# Gemma Scope, OpenAI


def gemma_equations(w: dict[str, Tensor], skip: Tensor | None = None) -> Equations:
    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        z = x @ w["W_enc"] + w["b_enc"]
        latents = relu(z) * (z > w["threshold"])
        return latents, latents @ w["W_dec"] + w["b_dec"] + (0 if skip is None else x @ skip)

    return run


@pytest.mark.parametrize(
    ("folder", "site", "target"),
    [
        ("gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71", "resid_post.20", "resid_post.20"),
        ("gemma-scope-9b-it-res/layer_20/width_16k/average_l0_71", "resid_post.20", "resid_post.20"),
        ("gemma-scope-2b-pt-mlp/layer_3/width_16k/average_l0_71", "mlp_out.3", "mlp_out.3"),
        ("gemma-scope-2b-pt-att/layer_3/width_16k/average_l0_71", "z.3", "z.3"),
        ("gemma-scope-2b-pt-transcoders/layer_3/width_16k/average_l0_71", None, "mlp_out.3"),
        ("elsewhere/layer_3", None, None),
    ],
)
@pytest.mark.parametrize("packed", [np.savez, np.savez_compressed])
def test_gemma_scope(tmp_path, x, folder, site, target, packed):
    w = {**parts(), "threshold": draw(N, seed=8).abs()}
    (tmp_path / folder).mkdir(parents=True)
    packed(tmp_path / folder / "params.npz", **{name: one.numpy() for name, one in w.items()})
    for path in (tmp_path / folder, tmp_path / folder / "params.npz"):
        coder = load_coder(path)
        assert_computes(coder, gemma_equations(w), x)
        assert (coder.site and str(coder.site), coder.target and str(coder.target)) == (site, target)


def test_a_coder_of_embeddings_meets_them_scaled(tmp_path, x):
    """Gemma multiplies its table by the root of the width; the coder was trained on the table."""
    folder = tmp_path / "gemma-scope-2b-pt-res" / "embedding" / "width_4k" / "average_l0_6"
    folder.mkdir(parents=True)
    w = {**parts(), "threshold": draw(N, seed=8).abs()}
    np.savez(folder / "params.npz", **{name: one.numpy() for name, one in w.items()})
    coder = load_coder(folder)
    latents, output = gemma_equations(w)(x)
    assert_computes(coder, lambda scaled: (latents, output * D**0.5), x * D**0.5)
    assert coder.site == Site("embed")


@pytest.mark.parametrize(
    ("hook", "out", "affine", "sites"),
    [
        ("model.layers.7.output", "model.layers.7.output", False, ("resid_post.7", "resid_post.7")),
        ("model.layers.7.self_attn.o_proj.input", None, False, ("z.7", "z.7")),
        ("model.layers.7.post_feedforward_layernorm.output", None, False, ("mlp_out.7", "mlp_out.7")),
        (
            "model.layers.7.pre_feedforward_layernorm.output",
            "model.layers.7.post_feedforward_layernorm.output",
            True,
            ("None", "mlp_out.7"),
        ),
    ],
)
def test_gemma_scope_2(tmp_path, x, hook, out, affine, sites):
    w = {**parts(), "threshold": draw(N, seed=8).abs()}
    skip = draw(D, D, seed=9) if affine else None
    tensors = {name.lower(): one for name, one in w.items()}
    save_file(tensors | ({"affine_skip_connection": skip} if affine else {}), tmp_path / "params.safetensors")
    said = {"hf_hook_point_in": hook, "hf_hook_point_out": out, "architecture": "jump_relu", "width": N, "l0": 20}
    (tmp_path / "config.json").write_text(json.dumps({**said, "model_name": "google/gemma-3-4b-it", "type": "sae"}))
    coder = load_coder(tmp_path)
    assert_computes(coder, gemma_equations(w, skip), x)
    assert (str(coder.site), str(coder.target)) == sites


@pytest.mark.parametrize("activation", ["TopK", "ReLU"])
def test_openai(tmp_path, x, activation):
    w = parts()
    state = {"pre_bias": w["b_dec"], "encoder.weight": w["W_enc"].T, "latent_bias": w["b_enc"]}
    state |= {"decoder.weight": w["W_dec"].T, "stats_last_nonzero": torch.zeros(N, dtype=torch.long)}
    state |= {"activation": activation}
    state |= {"activation_state_dict": {"k": K, "postact_fn": "ReLU"}} if activation == "TopK" else {}
    path = tmp_path / "resid_post_mlp_v5_32k" / "autoencoders" / "8.pt"
    path.parent.mkdir(parents=True)
    torch.save(state, path)

    def equations(x: Tensor) -> tuple[Tensor, Tensor]:
        mean, deviation = x.mean(-1, keepdim=True), ((x - x.mean(-1, keepdim=True)) ** 2).sum(-1, keepdim=True)
        deviation = (deviation / (D - 1)).sqrt()
        if activation == "ReLU":
            mean, deviation = torch.zeros(1), torch.ones(1) - 1e-5
        z = ((x - mean) / (deviation + 1e-5) - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
        latents = largest(z, K) if activation == "TopK" else relu(z)
        deviation = deviation if activation == "TopK" else torch.ones(1)
        return latents, (latents @ w["W_dec"] + w["b_dec"]) * deviation + mean

    coder = load_coder(path)
    assert_computes(coder, equations, x, 1e-7 if activation == "ReLU" else 1e-12)
    assert (coder.normed, coder.site) == (activation == "TopK", Site("resid_post", 8))
    if activation == "TopK":
        state["activation_state_dict"] = {"k": K, "postact_fn": "Identity"}
        torch.save(state, path)
        with pytest.raises(StorageError, match="Identity"):
            load_coder(path)


# Written for others

SAYS_NO = {
    "saelens": {"skip": "keeps the k largest"},
    "sparsify": {
        "relu": "a threshold",
        "one threshold": "a threshold",
        "thresholds": "a threshold",
        "transcoder": "a threshold",
        "skipping relu transcoder": "a threshold",
        "normed": "normed inputs",
    },
}


@pytest.mark.parametrize("format", SAYS_NO)
@pytest.mark.parametrize("name", CODERS)
def test_item_24_written_for_others_a_coder_computes_the_same_or_is_refused(tmp_path, x, format, name):
    coder = CODERS[name]
    if reason := SAYS_NO[format].get(name):
        with pytest.raises(UsageError, match=reason):
            save_coder(coder, tmp_path / "out", format=format)
        assert not (tmp_path / "out").exists()
        return
    folder = save_coder(coder, tmp_path / "layers.3", format=format)
    cfg = json.loads((folder / "cfg.json").read_text())
    weights = {key: one.double() for key, one in load_file(folder / writable(format).weights).items()}
    equations = (saelens_equations if format == "saelens" else sparsify_equations)(cfg, weights)
    exact = SparseCoder(
        *(getattr(coder, part).double() for part in ("encoder", "encoder_bias", "decoder", "decoder_bias")),
        KeepAbove(coder.selection.threshold.double()) if isinstance(coder.selection, KeepAbove) else coder.selection,
        *(None if one is None else one.double() for one in (coder.centre, coder.skip)),
        coder.normed,
    )
    assert_computes(exact, equations, x, 1e-6)  # their equations on their files
    read = load_coder(folder)
    assert read.fingerprint == writable(format).as_written(coder).fingerprint
    assert load_coder(save_coder(read, tmp_path / "own")).fingerprint == read.fingerprint
    if format == "saelens":
        assert (read.site, read.target) == (coder.site, coder.target)
        assert read.model["model"] == coder.model.get("model", "")


def test_a_format_has_no_words_for(tmp_path):
    given = {name: getattr(CODERS["skip"], name) for name in ("encoder", "encoder_bias", "decoder", "decoder_bias")}
    skipping = SparseCoder(**given, selection=KeepTop(K), skip=torch.eye(D), site=Site("z", 1), target=Site("z", 1))
    with pytest.raises(UsageError, match="a linear path past an autoencoder"):
        save_coder(skipping, tmp_path, format="saelens")
    narrow = SparseCoder(
        **given | {"decoder": torch.zeros(N, OUT), "decoder_bias": torch.zeros(OUT)}, selection=KeepTop(K)
    )
    with pytest.raises(UsageError, match="another width"):
        save_coder(narrow, tmp_path, format="sparsify")
    with pytest.raises(UsageError, match="bathyscope, saelens, sparsify"):
        save_coder(narrow, tmp_path, format="pickle")
    save_coder(narrow, tmp_path)
    with pytest.raises(UsageError, match=r"has coder.safetensors, of another format"):
        save_coder(CODERS["tied"], tmp_path, format="saelens")
    unsaid = SparseCoder(**given, selection=KeepTop(K), training={"loss": float("nan")})
    with pytest.raises(UsageError, match="no JSON"):
        save_coder(unsaid, tmp_path / "nan")


def test_what_came_from_saelens_goes_back_with_what_it_said(tmp_path):
    more = {"context_size": 128, "dataset_path": "text", "prepend_bos": False}
    folder = write_saelens(tmp_path / "a", {"architecture": "topk", "k": K, "more": more}, parts())
    back = save_coder(load_coder(folder), tmp_path / "b", format="saelens")
    said = json.loads((back / "cfg.json").read_text())["metadata"]
    assert {name: said[name] for name in more} == more
    assert (said["hook_name"], said["model_name"]) == ("blocks.5.hook_resid_post", "gpt2")


def test_heads_are_written_as_saelens_reads_them(tmp_path):
    coder = load_coder(save_coder(CODERS["nowhere"], tmp_path / "own"), site="z.4")
    cfg = json.loads((save_coder(coder, tmp_path / "z", format="saelens") / "cfg.json").read_text())
    assert (cfg["reshape_activations"], cfg["metadata"]["hook_name"]) == ("hook_z", "blocks.4.attn.hook_z")


# Where coders are fetched


@pytest.mark.parametrize(
    "address",
    [
        "hf:gpt2",
        "hf:",
        "hf:../name",
        "hf:a/b/../../c",
        "hf:a/..",
        "hf:a/b/.",
        "hf:a/b//c",
        "hf:/a/b",
        "hf:a/b/*",
        "hf:a/b/[ab]",
        "hf:a/b@",
        "hf:a/b@../x",
        "hf:a/b c",
        "hf:a/b/c\\d",
        "hf:a/b/é",
        "hf:a/b\n",
    ],
)
def test_an_address_that_leads_elsewhere_is_refused(monkeypatch, address):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **options: pytest.fail("it was fetched"))
    with pytest.raises(UsageError, match="no address"):
        load_coder(address)


def test_only_the_files_of_one_coder_are_fetched(tmp_path, monkeypatch):
    asked: list[dict] = []

    def fetched(repository: str, **options: object) -> str:
        asked.append({"repository": repository, **options})
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    save_coder(CODERS["top"], tmp_path / "run" / "blocks.3.hook_resid_pre", format="saelens")
    coder = load_coder("hf:me/coders/run/blocks.3.hook_resid_pre@v1.0")
    assert coder.n_latents == N
    (request,) = asked
    assert (request["repository"], request["revision"]) == ("me/coders", "v1.0")
    names = {pattern.removeprefix("run/blocks.3.hook_resid_pre/") for pattern in request["allow_patterns"]}
    assert {"cfg.json", "sae_weights.safetensors", "params.npz", "ae.pt"} <= names
    assert all("*" not in name and "/" not in name for name in names)
    assert {Path(name).suffix for name in names} == {".json", ".safetensors", ".npz", ".pt"}

    write_dictionary(tmp_path / "deep", dictionary("AutoEncoder")[0], None)
    assert load_coder("hf:me/coders/deep/ae.pt").n_latents == N
    assert "deep/ae.pt" in asked[-1]["allow_patterns"] and "deep/params.npz" not in asked[-1]["allow_patterns"]
    with pytest.raises(StorageError, match="has no coder in elsewhere"):
        load_coder("hf:me/coders/elsewhere")


def test_what_a_repository_is_called_says_the_site(tmp_path, monkeypatch):
    w = {**parts(), "threshold": draw(N, seed=8).abs()}
    (tmp_path / "layer_20").mkdir()
    np.savez(tmp_path / "layer_20" / "params.npz", **{name: one.numpy() for name, one in w.items()})
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **options: str(tmp_path))
    assert load_coder("hf:google/gemma-scope-2b-pt-res/layer_20").site == Site("resid_post", 20)


def test_a_repository_that_cannot_be_had(monkeypatch):
    def fails(*args: object, **options: object) -> str:
        raise RuntimeError("no route to host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fails)
    with pytest.raises(StorageError, match="me/coders could not be fetched .*no route to host"):
        load_coder("hf:me/coders")
    assert hub.Address.parse("hf:me/coders").revision is None


def test_a_format_is_recognised_by_what_is_there(tmp_path):
    folder = save_coder(CODERS["tied"], tmp_path / "a", format="sparsify")
    assert find_coder(folder).format.title == "sparsify"
    assert find_coder(folder / "sae.safetensors").format.title == "sparsify"
    (folder / "ae.pt").write_bytes(b"")
    (folder / "params.npz").write_bytes(b"")
    with pytest.raises(StorageError):
        find_coder(folder)
    (folder / "ae.pt").unlink()
    with pytest.raises(StorageError, match="can be read as sparsify and as Gemma Scope"):
        find_coder(folder)
    with pytest.raises(StorageError, match="there is no"):
        find_coder(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StorageError, match="it has nothing"):
        find_coder(tmp_path / "empty")


# With the reference, where it is installed


@pytest.mark.parametrize("cfg", ARCHITECTURES, ids=lambda cfg: " ".join(map(str, cfg.values())))
def test_saelens_itself_computes_the_same(tmp_path, x, cfg):
    sae_lens = pytest.importorskip("sae_lens")
    x = x.float()
    weights = {name: one.float() for name, one in saelens_weights(cfg).items()}
    usual = {"apply_b_dec_to_input": "d_out" not in cfg, "dtype": "float32"}
    theirs = sae_lens.SAE.load_from_disk(write_saelens(tmp_path / "theirs", {**usual, **cfg}, weights))
    theirs.save_model(tmp_path / "saved")
    ours = load_coder(tmp_path / "saved")
    with torch.no_grad():
        torch.testing.assert_close(ours.encode(x).dense(), theirs.encode(x), rtol=1e-6, atol=2e-6)
        torch.testing.assert_close(ours.reconstruct(x), theirs(x), rtol=1e-6, atol=5e-6)
        again = sae_lens.SAE.load_from_disk(save_coder(ours, tmp_path / "ours", format="saelens"))
        torch.testing.assert_close(again.encode(x), theirs.encode(x), rtol=1e-6, atol=2e-6)
        torch.testing.assert_close(again(x), theirs(x), rtol=1e-6, atol=5e-6)
