"""Probes: honest accuracies, codes that cost what they must, and labels that mean nothing and are learnt by nobody."""

import builtins
import json
import sys

import numpy
import pytest

from bathyscope import Model, capture, probing
from bathyscope.errors import PositionError, UsageError
from bathyscope.probing import Example, Folds, Logistic, Majority, Uniform, codelength, control_labels, predictions
from bathyscope.results import Result
from bathyscope.sites import residual_site

sklearn = pytest.importorskip("sklearn")

COLOURS = ["red", "green", "blue"]
NOUNS = ["river", "sea", "boats", "wind", "cat", "tower", "fish", "harbour", "capital", "lamp", "stone", "hill"]
EXAMPLES = [Example(f"The old {noun} by the water", noun, COLOURS[place % 3]) for place, noun in enumerate(NOUNS)]


def clusters(n: int, labels: list[str], width: int = 8, seed: int = 0, noise: float = 0.1) -> numpy.ndarray:
    """Points that are near their label's own place."""
    generator = numpy.random.default_rng(seed)
    centre = {label: generator.normal(size=width) for label in sorted(set(labels))}
    return numpy.stack([centre[label] + noise * generator.normal(size=width) for label in labels[:n]])


# Identities, for every family


def test_a_uniform_predictor_costs_n_log2_k_bits_and_compresses_nothing(model: Model):
    read = probing.representations(model, EXAMPLES, [2])[2]
    labels, subjects = [one.label for one in EXAMPLES], [one.subject for one in EXAMPLES]
    found = codelength(read, labels, subjects, predictor=Uniform)
    assert found.bits == pytest.approx(12 * numpy.log2(3), rel=1e-12)
    assert found.compression == pytest.approx(1, rel=1e-12)
    assert sum(found.blocks) == found.n == 12


def test_representations_are_what_is_captured_at_the_subjects_last_token(model: Model):
    found = probing.representations(model, EXAMPLES[:2], [-1, 3])
    for row, one in enumerate(EXAMPLES[:2]):
        tokens = model.tokenize(one.text)
        last = max(
            place for place, (first, stop) in enumerate(tokens.offsets) if tokens.text[:stop].endswith(one.subject)
        )
        for layer in (-1, 3):
            alone = capture(model, one.text, [residual_site(layer)])[residual_site(layer)][0][last]
            numpy.testing.assert_allclose(found[layer][row], alone.double().numpy(), atol=1e-4)


def test_predictions_are_those_of_scikit_learns_own_pipeline(model: Model):
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import PredefinedSplit, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    read = probing.representations(model, EXAMPLES, [1])[1]
    labels = [one.label for one in EXAMPLES]
    folds = Folds.by_subject([one.subject for one in EXAMPLES], labels, k=3)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000))
    expected = cross_val_predict(pipeline, read, labels, cv=PredefinedSplit(folds.of_item))
    assert predictions(read, labels, folds) == list(expected)


def test_a_model_of_random_weights_has_the_same_shape_and_other_weights_by_seed(model: Model):
    before = model.fingerprint
    first, again, other = (probing.random_model(model, seed=seed) for seed in (0, 0, 1))
    assert first.fingerprint == again.fingerprint
    assert len({first.fingerprint, other.fingerprint, before}) == 3
    assert (first.n_layers, first.d_model, first.dtype) == (model.n_layers, model.d_model, model.dtype)
    assert model.fingerprint == before


# Folds


def test_no_subject_is_in_two_folds_and_labels_of_two_subjects_are_in_two():
    generator = numpy.random.default_rng(1)
    for seed in range(20):
        subjects = [f"s{number}" for number in generator.integers(0, 15, 60)]
        labels = [str(int(subject[1:]) // 2) for subject in subjects]
        folds = Folds.by_subject(subjects, labels, k=3, seed=seed)
        of_subject = {subject: set(folds.of_item[[one == subject for one in subjects]]) for subject in subjects}
        assert all(len(found) == 1 for found in of_subject.values())
        assert set(folds.of_item) == {0, 1, 2}
        for label in set(labels):
            sharing = {subject for subject, one in zip(subjects, labels, strict=True) if one == label}
            there = set(folds.of_item[[one == label for one in labels]])
            assert (len(there) > 1) == (len(sharing) > 1)
            assert all(folds.learnable[[one == label for one in labels]] == (len(sharing) > 1))


def test_a_label_of_one_subject_is_never_predicted_right():
    labels = ["a", "a", "b", "b", "only"]
    folds = Folds.by_subject(range(5), labels, k=2)
    found = predictions(clusters(5, labels, noise=0.0), labels, folds)
    assert found[:4] == labels[:4] and found[4] != "only"
    assert folds.learnable.tolist() == [True] * 4 + [False]


@pytest.mark.parametrize(("k", "n"), [(1, 5), (3, 2)])
def test_folds_that_cannot_be_are_refused(k: int, n: int):
    with pytest.raises(UsageError, match=f"{k} folds of {n} subjects"):
        Folds.by_subject(range(n), ["a"] * n, k=k)


# Standardisation


def test_standardisation_knows_nothing_of_what_is_tested(monkeypatch: pytest.MonkeyPatch):
    from sklearn.preprocessing import StandardScaler

    labels = ["a", "b"] * 6
    read = clusters(12, labels)
    folds = Folds.by_subject(range(12), labels, k=3)
    # Were the scaler fitted on all rows, this outlier of the third fold would move the mean of the others.
    read[folds.of_item == 2] += 1e6
    seen = []
    fit = StandardScaler.fit
    monkeypatch.setattr(StandardScaler, "fit", lambda self, rows: seen.append(rows.copy()) or fit(self, rows))
    predictions(read, labels, folds)
    for fold, rows in enumerate(seen):
        numpy.testing.assert_array_equal(rows, read[folds.of_item != fold])
    probe = Logistic().fit(read[folds.of_item != 2], numpy.array([0, 1] * 4))
    numpy.testing.assert_allclose(probe._scaler.mean_, read[folds.of_item != 2].mean(0))
    assert abs(probe._scaler.mean_).max() < 10


def test_what_is_tested_changes_no_other_prediction():
    labels = ["a", "b", "c"] * 8
    read = clusters(24, labels, noise=1.0)
    folds = Folds.by_subject(range(24), labels, k=3)
    before = predictions(read, labels, folds)
    for row in range(24):
        moved = read.copy()
        moved[row] *= 1e4
        after = predictions(moved, labels, folds)
        same_fold = folds.of_item == folds.of_item[row]
        assert [after[other] for other in range(24) if same_fold[other] and other != row] == [
            before[other] for other in range(24) if same_fold[other] and other != row
        ]


# Control task and code


def test_control_labels_are_a_function_of_the_subject_alone():
    subjects = [f"s{number % 40}" for number in range(200)]
    labels = [COLOURS[number % 3] for number in range(200)]
    found = dict(zip(subjects, control_labels(subjects, labels), strict=True))
    assert control_labels(subjects, labels) == [found[subject] for subject in subjects]
    assert control_labels(subjects[::-1], labels) == [found[subject] for subject in subjects[::-1]]
    assert control_labels(["s3"], ["red"]) == ["red"]
    assert control_labels(subjects, labels, seed=1) != control_labels(subjects, labels)


def test_control_labels_are_as_common_as_the_real_ones():
    labels = ["often"] * 750 + ["seldom"] * 250
    found = control_labels([str(number) for number in range(1000)], labels)
    assert 700 < found.count("often") < 800


def test_separable_labels_are_compressed_and_random_ones_are_not():
    labels = [COLOURS[number % 3] for number in range(240)]
    read = clusters(240, labels, width=16)
    real = codelength(read, labels, range(240))
    assert real.compression > 5 and real.uniform_bits == pytest.approx(240 * numpy.log2(3))
    random = [
        codelength(read, control_labels([str(n) for n in range(240)], labels, seed=seed), range(240), seed=seed)
        for seed in range(3)
    ]
    assert max(one.compression for one in random) < 1.1


def test_the_order_changes_a_code_by_noise_only():
    labels = ["a", "b"] * 100
    bits = [codelength(clusters(200, labels, noise=0.5), labels, range(200), seed=seed).bits for seed in range(5)]
    assert len(set(bits)) > 1 and max(bits) < 1.6 * min(bits)


def test_the_first_block_is_sent_without_a_probe_and_blocks_hold_whole_subjects():
    labels, subjects = ["a", "b", "a", "b"] * 25, [number // 5 for number in range(100)]
    found = codelength(clusters(100, labels), labels, subjects)
    assert found.blocks == (5, 5, 15, 25, 50)
    assert all(size % 5 == 0 for size in found.blocks)


def test_a_probe_that_knows_nothing_of_half_the_labels_still_sends_a_finite_code():
    labels = ["a"] * 10 + [f"only {number}" for number in range(10)]
    found = codelength(clusters(20, labels), labels, range(20))
    assert numpy.isfinite(found.bits)


# The table


def test_the_table_says_what_its_parts_say(llama: Model, tmp_path):
    found = probing.probe(llama, EXAMPLES, layers="0,3", seed=4)
    labels, subjects = [one.label for one in EXAMPLES], [one.subject for one in EXAMPLES]
    folds = Folds.by_subject(subjects, labels, k=3, seed=4)
    read = probing.representations(llama, EXAMPLES, [-1, 0, 3])
    drawn = probing.random_model(llama, seed=4)
    for row in found.rows():
        layer = row["layer"]
        control = control_labels(subjects, labels, seed=4)
        assert row["accuracy"] == share(predictions(read[layer], labels, folds), labels)
        assert row["control_accuracy"] == share(predictions(read[layer], control, folds), control)
        assert row["selectivity"] == row["accuracy"] - row["control_accuracy"]
        assert row["bits"] == codelength(read[layer], labels, subjects, seed=4).bits
        untrained = probing.representations(drawn, EXAMPLES, [layer])[layer]
        assert row["random_init"] == share(predictions(untrained, labels, folds), labels)
    baselines = {one["baseline"]: one["accuracy"] for one in found.baselines}
    assert baselines["the subject's embedding"] == share(predictions(read[-1], labels, folds), labels)
    assert baselines["majority label"] == share(predictions(read[-1], labels, folds, predictor=Majority), labels)
    loaded = Result.load(found.save(tmp_path / "probe.json"))
    assert json.loads(loaded.to_json()) == json.loads(found.to_json())
    assert "majority label baseline" in found.to_html()


def share(said: list[str], labels: list[str]) -> float:
    return float(numpy.mean([one == other for one, other in zip(said, labels, strict=True)]))


def test_a_subject_that_is_not_in_its_text_is_refused_with_the_tokens(llama: Model):
    with pytest.raises(PositionError, match="'France' was given and it is not there.*0 '"):
        probing.probe(llama, [*EXAMPLES, Example("The old river", "France", "red")])


def test_one_label_is_nothing_to_probe(llama: Model):
    with pytest.raises(UsageError, match="1 label"):
        probing.probe(llama, [Example(one.text, one.subject, "red") for one in EXAMPLES])


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def missing(name: str, *rest, **options):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    for name in [name for name in sys.modules if name.startswith("sklearn")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UsageError, match=r'pip install "bathyscope\[studies\]"'):
        predictions([[0.0], [1.0]], ["a", "b"], Folds.by_subject([0, 1], ["a", "b"], k=2))


@pytest.mark.slow
@pytest.mark.embedded
def test_the_embedded_model_tells_countries_from_animals_and_no_random_model_does_better():
    from bathyscope import load

    things = {
        "country": ["France", "Italy", "Spain", "Japan", "Brazil", "Egypt", "Canada", "India", "Mexico", "Norway"],
        "animal": ["horse", "tiger", "rabbit", "eagle", "salmon", "monkey", "spider", "wolf", "sheep", "camel"],
    }
    examples = [Example(f"I read a book about the {one}", one, label) for label, them in things.items() for one in them]
    (row,) = probing.probe(load(), examples, layers="10").rows()
    assert row["accuracy"] >= 0.95 and row["selectivity"] > 0.2 and row["compression"] > 1.5
