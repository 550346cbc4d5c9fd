"""tn.zoo's networks are torchvision's: its weights, by its names, give its logits, gradients and statistics.

In float64: in float32 it takes one number that a ReLU rounds to 0 on one side alone to move gradients by more than 1e-3
where the last layers see images of 2 x 2 pixels.
"""

import numpy as np
import pytest
import torch
from interop_networks import by_name, channels_first
from torch import nn
from torchvision_networks import VGG, AlexNet, DenseNet, MobileNetV2, ResNet, VisionTransformer

import tinynet as tn
from tinynet.interop import from_torch

SIZE, CLASSES = 64, 5  # of images, which are as wide as high
OURS = {"classes": CLASSES, "input_shape": (SIZE, SIZE, 3), "dtype": "float64"}
NETWORKS = {  # torchvision's, and ours
    "AlexNet": (lambda: AlexNet(CLASSES, 64), lambda: tn.zoo.alexnet(**OURS, units=64, dropout=0)),
    "VGG-11": (lambda: VGG((1, 1, 2, 2, 2), CLASSES, 64, False), lambda: tn.zoo.vgg(11, **OURS, units=64, dropout=0)),
    "VGG-13 with BatchNorm": (
        lambda: VGG((2, 2, 2, 2, 2), CLASSES, 64, True),
        lambda: tn.zoo.vgg(13, **OURS, units=64, dropout=0, batch_norm=True),
    ),
    "ResNet-18": (lambda: ResNet((2, 2, 2, 2), CLASSES, False), lambda: tn.zoo.resnet(18, **OURS)),
    "ResNet-50": (lambda: ResNet((3, 4, 6, 3), CLASSES, True), lambda: tn.zoo.resnet(50, **OURS)),
    "DenseNet-121": (lambda: DenseNet((6, 12, 24, 16), 32, CLASSES), lambda: tn.zoo.densenet(**OURS)),
    "a small DenseNet": (lambda: DenseNet((2, 3), 8, CLASSES), lambda: tn.zoo.densenet((2, 3), 8, **OURS)),
    "MobileNetV2": (lambda: MobileNetV2(CLASSES), lambda: tn.zoo.mobilenet_v2(**OURS, dropout=0)),
    "ViT": (
        lambda: VisionTransformer(SIZE, 16, 2, 3, 48, CLASSES),
        lambda: tn.zoo.vit(**OURS, layers=2, heads=3, dim=48),
    ),
}


def both(name):
    torch.manual_seed(0)
    network, model = (build() for build in NETWORKS[name])
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.Conv2d):  # with PyTorch's own weights, what comes out of AlexNet is nearly all bias
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, 0, 0.1)
            nn.init.normal_(module.running_mean, 0, 0.1)
    return network.double(), model


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_gradients_and_running_statistics_are_torchvisions(name):
    network, model = both(name)
    from_torch(model, network)
    values = model.flat_values.copy()
    model.flat_values[:] = 0
    from_torch(model, by_name(network))  # a file of safetensors has names sorted as text
    np.testing.assert_array_equal(model.flat_values, values)

    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((4, SIZE, SIZE, 3)), rng.integers(0, CLASSES, 4)
    with torch.no_grad():
        assert_close(model.predict(x), network.eval()(channels_first(x)))
    expected = network.train()(channels_first(x))
    their_loss = nn.functional.cross_entropy(expected, torch.from_numpy(y))
    their_loss.backward()
    logits = model.forward(x, training=True)
    assert_close(logits, expected.detach())
    loss, dlogits = tn.softmax_cross_entropy(logits, y)
    assert loss == pytest.approx(their_loss.item())
    model.backward(dlogits)
    buffers, theirs = model.buffers().copy(), network.state_dict()
    from_torch(model, theirs | {key: p.grad for key, p in network.named_parameters()})  # brought here as weights are
    for key, value in model.buffers().items():
        assert_close(buffers[key], value, key)
    for parameter in model.parameters():
        assert_close(parameter.grad, parameter.value, parameter.name, least=np.abs(model.flat_values).max())


def assert_close(ours, theirs, what="", least=0.0):
    """least: the largest number beside which others are 0, such as the gradients of biases in front of a BatchNorm."""
    theirs = np.asarray(theirs)
    allowed = 1e-7 * np.abs(theirs).max() + 1e-10 * least
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=allowed, err_msg=what)


def test_a_vision_transformer_of_other_heads_is_refused():
    network, _ = both("ViT")
    model = tn.zoo.vit(**OURS, layers=2, heads=4, dim=48)
    with pytest.raises(ValueError, match=r"heads=4, but encoder\.layers\.encoder_layer_0\.self_attention 3"):
        from_torch(model, network)
    from_torch(model, network.state_dict())
