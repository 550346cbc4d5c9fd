"""The zoo's models have the sizes that their papers state, start as these say, and train."""

import math

import numpy as np
import pytest

import tinynet as tn

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_smallest_gpt2_and_the_base_of_bert_have_their_known_sizes():
    assert tn.zoo.gpt2(layers=1).flat_values.size == 124_439_808 - 11 * 7_087_872
    pooler, segments = 768 * 769, 2 * 768  # which BERT has on top
    of_bert = 109_482_240 - pooler - segments - 11 * 7_087_872
    assert tn.zoo.bert(layers=1).flat_values.size == of_bert


def test_weights_start_normal_and_smaller_before_a_sum():
    layers = 3
    model = tn.zoo.gpt2(vocabulary=500, length=64, layers=layers, heads=4, dim=64)
    for parameter in model.parameters():
        if parameter.value.ndim == 2:
            shrunk = parameter.name.endswith(("0.1.out_weight", "1.2.weight"))
            expected = 0.02 / math.sqrt(2 * layers) if shrunk else 0.02
            assert parameter.value.std() == pytest.approx(expected, rel=0.05), parameter.name
        else:
            assert np.array_equal(np.unique(parameter.value), [1 if parameter.name.endswith("weight") else 0])
    same, other = (tn.zoo.gpt2(vocabulary=500, length=64, layers=3, heads=4, dim=64, seed=s) for s in (0, 1))
    assert np.array_equal(model.flat_values, same.flat_values)
    assert not np.array_equal(model.flat_values, other.flat_values)


def test_without_biases_there_are_none():
    model = tn.zoo.gpt2(vocabulary=65, length=64, layers=2, heads=4, dim=32, bias=False)
    assert all(parameter.name.endswith("weight") for parameter in model.parameters())


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "linear_cross_entropy"])
def test_a_gpt_learns_to_repeat(loss):
    rng = np.random.default_rng(0)
    x = np.tile(rng.integers(0, 12, (64, 4)), 3)
    model = tn.zoo.gpt2(vocabulary=12, length=11, layers=2, heads=2, dim=32, dropout=0.0, seed=1)
    y = np.where(np.arange(11) < 3, -100, x[:, 1:])  # what comes first can't be known
    optimizer = tn.AdamW(model, lr=1e-2)
    history = tn.fit(model, x[:, :-1], y, loss=loss, optimizer=optimizer, epochs=40, batch_size=16, progress=False)
    assert history["loss"][-1] < 0.1
    assert np.array_equal(tn.generate(model, [3, 1, 4, 9], 7, temperature=0), [3, 1, 4, 9, 3, 1, 4, 9, 3, 1, 4])


def test_dropout_is_everywhere_it_belongs():
    model = tn.zoo.gpt2(vocabulary=12, length=8, layers=1, heads=2, dim=8, dropout=0.1)
    assert sum(type(layer) is tn.Dropout for layer in model.walk()) == 3
    model = tn.zoo.bert(vocabulary=12, length=8, layers=1, heads=2, dim=8, dropout=0.1)
    assert sum(type(layer) is tn.Dropout for layer in model.walk()) == 3
    with pytest.raises(ValueError, match="7 numbers a position can't be cut into 2 heads"):
        tn.zoo.gpt2(vocabulary=12, length=8, layers=1, heads=2, dim=7)
