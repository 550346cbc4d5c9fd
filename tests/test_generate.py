"""generate: the same text with the layers' state and without it, drawn as the softmax says; and what is refused."""

import numpy as np
import pytest

import tinynet as tn

pytestmark = pytest.mark.usefixtures("one_thread")


def gpt(seed=0):
    """A model that expects something else after each text: of small weights alone, all logits are nearly alike."""
    model = tn.zoo.gpt2(vocabulary=30, length=24, layers=2, heads=2, dim=16, seed=seed)
    model.flat_values *= 10
    return model


def recurrent(layer):
    return tn.Sequential([tn.Embedding(30, 8), layer, tn.Dense(30)], input_shape=24, seed=1)


def without_state(model, tokens, length):
    """The likeliest tokens, with all that is before read anew for each."""
    text = np.asarray(tokens)
    for _ in range(length):
        text = np.concatenate([text, model.forward(text)[:, -1].argmax(-1)[:, None]], axis=1)
    return text


MODELS = {"GPT": gpt, "LSTM": lambda: recurrent(tn.LSTM(8)), "GRU": lambda: recurrent(tn.GRU(8))}
MODELS["causal Conv1D"] = lambda: recurrent(tn.Conv1D(8, 4, padding="causal", dilation=2, activation="tanh"))


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_with_and_without_state_it_writes_the_same_text(build):
    model, prompts = build(), np.random.default_rng(0).integers(0, 30, (3, 5))
    found = tn.generate(model, prompts, 19, temperature=0)
    assert np.array_equal(found, without_state(model, prompts, 19))
    assert np.array_equal(tn.generate(model, prompts[1], 19, temperature=0), found[1])
    assert len(np.unique(found)) > 3


def test_a_model_that_was_saved_and_loaded_writes_the_same_text(tmp_path):
    model, other = gpt(), gpt(seed=1)
    tn.save(model, tmp_path / "model")
    tn.load(other, tmp_path / "model")
    expected = tn.generate(model, [1, 2, 3], 20)
    assert np.array_equal(tn.generate(other, [1, 2, 3], 20), expected)
    assert not np.array_equal(tn.generate(gpt(seed=1), [1, 2, 3], 20), expected)
    likeliest = tn.generate(model, [1, 2, 3], 20, temperature=0)
    assert np.array_equal(tn.generate(other, [1, 2, 3], 20, temperature=0), likeliest)
    assert np.array_equal(without_state(other, [[1, 2, 3]], 20)[0], likeliest)


def test_a_recurrent_model_writes_on_without_end():
    model = recurrent(tn.LSTM(8))
    assert tn.generate(model, np.arange(30) % 7, 50).shape == (80,)


def test_a_text_ends_with_the_token_that_stops_it():
    model, prompts = recurrent(tn.GRU(8)), np.random.default_rng(3).integers(0, 30, (4, 3))
    whole = tn.generate(model, prompts, 60, seed=5)
    stop = int(whole[0, 3 + 20])
    found = tn.generate(model, prompts, 60, seed=5, stop=stop)
    ends = [3 + list(row[3:]).index(stop) if stop in row[3:] else 62 for row in whole]
    assert found.shape == (4, max(ends) + 1)
    for row, without, end in zip(found, whole, ends, strict=True):
        assert row[: end + 1].tolist() == without[: end + 1].tolist()
        assert set(row[end + 1 :].tolist()) <= {stop}
    alone = tn.generate(model, prompts[0], 60, temperature=0).tolist()
    end = alone.index(alone[7], 3)
    assert tn.generate(model, prompts[0], 60, temperature=0, stop=alone[7]).tolist() == alone[: end + 1]


def expecting(logits):
    """A model that always expects the same."""
    model = tn.Sequential([tn.Embedding(len(logits), 2), tn.Dense(len(logits))], input_shape=5)
    model.flat_values[...] = 0
    model.parameters()[-1].value = logits
    return model


def test_tokens_are_drawn_as_often_as_the_softmax_says():
    logits = np.log([0.1, 0.2, 0.3, 0.4])
    texts = np.zeros((4000, 1), int)

    def shares(**options):
        return np.bincount(tn.generate(expecting(logits), texts, 1, **options)[:, 1], minlength=4) / 4000

    np.testing.assert_allclose(shares(), [0.1, 0.2, 0.3, 0.4], atol=0.03)
    np.testing.assert_allclose(shares(temperature=0.5), np.array([1, 4, 9, 16]) / 30, atol=0.03)
    np.testing.assert_allclose(shares(top_k=2), [0, 0, 3 / 7, 4 / 7], atol=0.03)
    np.testing.assert_allclose(shares(top_k=9), [0.1, 0.2, 0.3, 0.4], atol=0.03)
    assert shares(temperature=0)[3] == shares(top_k=1)[3] == shares(temperature=1e-9)[3] == 1


def test_the_seed_tells_the_text():
    model = gpt()
    one, same, other = (tn.generate(model, [3], 20, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert one.dtype == np.int64
    assert np.array_equal(tn.generate(model, [3, 4], 0), [3, 4])


def test_what_can_not_be_continued_is_refused():
    model = gpt()
    with pytest.raises(ValueError, match=r"would have 26 tokens, and PositionEmbedding \(layer 1\) has vectors for 24"):
        tn.generate(model, [1, 2], 24)
    assert len(tn.generate(model, [1, 2], 23)) == 25
    encoder = tn.zoo.bert(vocabulary=30, length=24, layers=1, heads=2, dim=16, head=True)
    with pytest.raises(ValueError, match="only a causal one can go on from a state"):
        tn.generate(encoder, [1], 2)
    with pytest.raises(ValueError, match=r"must end in logits \(N, T, 30\), .* ends in logits \(N, 24, 16\)"):
        tn.generate(tn.zoo.bert(vocabulary=30, length=24, layers=1, heads=2, dim=16), [1], 2)
    with pytest.raises(ValueError, match=r"must begin with an Embedding of tokens \(N, T\), not with Dense"):
        tn.generate(tn.Sequential([tn.Dense(3)], 4), [1], 2)
    with pytest.raises(TypeError, match=r"must be a tinynet\.Sequential, got str"):
        tn.generate("model", [1], 2)
    with pytest.raises(ValueError, match=r"it ends in numbers|it ends in probabilities"):
        tn.generate(tn.Sequential([tn.Embedding(5, 5), tn.Softmax()], 4), [1], 2)
    broken = expecting([0.0, np.nan])
    with pytest.raises(ValueError, match="logits are not finite"):
        tn.generate(broken, [0], 1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([1.5], 2), TypeError, "tokens must be whole numbers, got an array of dtype float64"),
        (([], 2), TypeError, "tokens must be whole numbers"),
        ((np.zeros((2, 0), int), 2), ValueError, r"T at least 1, got shape \(2, 0\)"),
        ((3, 2), ValueError, r"tokens must be \(T,\) or \(N, T\)"),
        (([30], 2), ValueError, "the 30 words are numbered from 0 to 29"),
        (([1], -1), ValueError, "length"),
        (([1], 2, -1), ValueError, "temperature must be a finite number of at least 0, got -1"),
        (([1], 2, 1, 0), ValueError, "top_k"),
        (([1], 2, 1, None, -3), ValueError, "seed"),
        (([1], 2, 1, None, 0, 30), ValueError, "stop must be a token of the model, from 0 to 29, got 30"),
    ],
)
def test_arguments_are_checked(arguments, error, message):
    with pytest.raises(error, match=message):
        tn.generate(gpt(), *arguments)
