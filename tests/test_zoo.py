"""The zoo's models have the sizes that their papers state, start as these say, and train.

That those of images are torchvision's is in interop/test_torchvision.py.
"""

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


def test_networks_of_images_have_their_known_sizes():
    known = {
        tn.zoo.lenet5: 61_706,
        tn.zoo.resnet: 11_689_512,
        tn.zoo.densenet: 7_978_856,
        tn.zoo.mobilenet_v2: 3_504_872,
        tn.zoo.vit: 5_717_416,
    }
    for build, size in known.items():
        assert build().flat_values.size == size
    for depth, size in {34: 21_797_672, 50: 25_557_032}.items():
        assert tn.zoo.resnet(depth).flat_values.size == size
    # Without the two wide layers, which are most of them; 4096 units would make 124 million of 123 thousand.
    for depth, size in {11: 9_220_480, 13: 9_404_992, 16: 14_714_688, 19: 20_024_384}.items():
        wide = 25088 + 1 + 2 + 2000
        assert tn.zoo.vgg(depth, units=1).flat_values.size == size + wide
    assert tn.zoo.alexnet(units=1).flat_values.size == 2_469_696 + 9216 + 1 + 2 + 2000


@pytest.mark.parametrize("build", [tn.zoo.resnet, tn.zoo.densenet])
def test_for_small_images_they_begin_without_making_them_smaller(build):
    first, second = (build(input_shape=(32, 32, 3), small_images=small).layers[3].output_shape for small in (0, 1))
    assert first[:2] == (8, 8)
    assert second[:2] == (32, 32)


def test_convolutions_in_front_of_a_norm_have_no_bias_and_start_with_hes_variance():
    for model, name in (
        (tn.zoo.resnet(18, small_images=True, input_shape=(32, 32, 3)), "he_out"),
        (tn.zoo.densenet((6, 6), small_images=True, input_shape=(32, 32, 3)), "he"),
        (tn.zoo.mobilenet_v2(), "he_out"),
    ):
        for layer in model.walk():
            if type(layer) is tn.Conv2D and layer.parameters[0].value.size > 10_000:
                (I, J, C, K), groups = layer.parameters[0].value.shape, layer.groups
                fan = I * J * C if name == "he" else I * J * K // groups
                assert layer.parameters[0].value.std() == pytest.approx(math.sqrt(2 / fan), rel=0.05), layer.label
                assert len(layer.parameters) == 1


def test_the_channels_of_a_narrow_mobilenet_are_multiples_of_8():
    model = tn.zoo.mobilenet_v2(10, (32, 32, 3), width=0.35)  # of what a table of its authors' says: 16, 8, 8, 16, ...
    filters = [layer.filters for layer in model.walk() if type(layer) is tn.Conv2D and layer.groups == 1]
    assert filters[:4] == [16, 8, 48, 8]
    assert filters[-1] == 1280
    assert all(count % 8 == 0 for count in filters)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: tn.zoo.resnet(20), ValueError, "resnet: depth must be one of 18, 34, 50, 101, 152, got 20"),
        (lambda: tn.zoo.resnet("18"), TypeError, "resnet: depth must be a whole number"),
        (lambda: tn.zoo.vgg(12), ValueError, "vgg: depth must be one of 11, 13, 16, 19, got 12"),
        (lambda: tn.zoo.densenet(121), TypeError, "densenet: blocks must be a list of numbers of layers, got 121"),
        (lambda: tn.zoo.densenet((6, 0)), ValueError, "densenet: a number of layers in blocks must be at least 1"),
        (
            lambda: tn.zoo.mobilenet_v2(width=-1),
            ValueError,
            "mobilenet_v2: width must be a finite number of at least 0",
        ),
        (
            lambda: tn.zoo.alexnet(input_shape=(32, 32, 3)),
            ValueError,
            r"MaxPool2D \(layer 7\): the window .* is larger",
        ),
        (
            lambda: tn.zoo.vit(input_shape=(8, 8, 3)),
            ValueError,
            "vit: a patch of 16 does not fit into images",
        ),
        (lambda: tn.zoo.vit(input_shape=(64, 64)), ValueError, "vit: input_shape must be that of an image"),
    ],
)
def test_what_no_network_can_be_built_of_is_refused(build, error, message):
    with pytest.raises(error, match=message):
        build()


@pytest.mark.parametrize(
    "build",
    [
        lambda: tn.zoo.lenet5(2, (12, 12, 1)),
        lambda: tn.zoo.densenet((2, 2), 4, 2, (12, 12, 1), small_images=True, dropout=0.1),
        lambda: tn.zoo.vit(2, (12, 12, 1), patch=4, layers=1, heads=2, dim=16, dropout=0.1),
    ],
    ids=["LeNet-5", "DenseNet", "ViT"],
)
def test_they_learn_which_half_of_an_image_is_bright(build):
    model, rng = build(), np.random.default_rng(0)
    H, W, _ = model.input_shape
    y = rng.integers(0, 2, 64)
    x = rng.random((64, H, W, 1)) + 2 * ((np.arange(W) < W // 2) == y[:, None])[:, None, :, None]
    history = tn.fit(
        model, x - 1.5, y, loss="softmax_cross_entropy", optimizer=tn.Adam(model, lr=2e-3), epochs=8, batch_size=16,
        progress=False,
    )  # fmt: skip
    assert history["loss"][-1] < 0.3
