"""torchvision's networks once more, with its names and its defaults, for those who have no torchvision.

Its package for Linux is built for CUDA and can't be imported beside a PyTorch without.
"""

from collections import OrderedDict

import torch
from torch import nn


class AlexNet(nn.Module):
    def __init__(self, classes, units):
        super().__init__()
        layers, channels = [], 3
        for filters, window, stride, padding, pools in (
            (64, 11, 4, 2, True), (192, 5, 1, 2, True), (384, 3, 1, 1, False), (256, 3, 1, 1, False),
            (256, 3, 1, 1, True),
        ):  # fmt: skip
            layers += [nn.Conv2d(channels, filters, window, stride, padding), nn.ReLU()]
            layers += [nn.MaxPool2d(3, 2)] * pools
            channels = filters
        self.features, self.avgpool = nn.Sequential(*layers), nn.AdaptiveAvgPool2d(6)
        wide = nn.Dropout(), nn.Linear(256 * 36, units), nn.ReLU(), nn.Dropout(), nn.Linear(units, units), nn.ReLU()
        self.classifier = nn.Sequential(*wide, nn.Linear(units, classes))

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


class VGG(nn.Module):
    def __init__(self, counts, classes, units, batch_norm):
        super().__init__()
        layers, channels = [], 3
        for filters, count in zip((64, 128, 256, 512, 512), counts, strict=True):
            for _ in range(count):
                norm = [nn.BatchNorm2d(filters)] if batch_norm else []
                layers += [nn.Conv2d(channels, filters, 3, padding=1), *norm, nn.ReLU()]
                channels = filters
            layers += [nn.MaxPool2d(2)]
        self.features, self.avgpool = nn.Sequential(*layers), nn.AdaptiveAvgPool2d(7)
        wide = nn.Linear(512 * 49, units), nn.ReLU(), nn.Dropout(), nn.Linear(units, units), nn.ReLU(), nn.Dropout()
        self.classifier = nn.Sequential(*wide, nn.Linear(units, classes))

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def conv(channels, filters, window, stride=1, groups=1):
    return nn.Conv2d(channels, filters, window, stride, window // 2, groups=groups, bias=False)


class Block(nn.Module):
    """Of a ResNet: both kinds."""

    def __init__(self, channels, filters, stride, is_bottleneck):
        super().__init__()
        out = 4 * filters if is_bottleneck else filters
        sizes = (
            [(filters, 1, 1), (filters, 3, stride), (out, 1, 1)] if is_bottleneck else [(out, 3, stride), (out, 3, 1)]
        )
        before = channels
        for number, (width, window, step) in enumerate(sizes, 1):
            self.add_module(f"conv{number}", conv(before, width, window, step))
            self.add_module(f"bn{number}", nn.BatchNorm2d(width))
            before = width
        self.count, self.downsample = len(sizes), None
        if stride == 2 or channels != out:
            self.downsample = nn.Sequential(conv(channels, out, 1, stride), nn.BatchNorm2d(out))

    def forward(self, x):
        y = x
        for number in range(1, self.count + 1):
            y = self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(y))
            y = y.relu() if number < self.count else y
        return (y + (self.downsample(x) if self.downsample is not None else x)).relu()


class ResNet(nn.Module):
    def __init__(self, counts, classes, is_bottleneck):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        channels = 64
        for stage, count in enumerate(counts):
            blocks, filters = [], 64 * 2**stage
            for index in range(count):
                blocks.append(Block(channels, filters, 2 if stage and not index else 1, is_bottleneck))
                channels = 4 * filters if is_bottleneck else filters
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, classes)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1)
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        return self.fc(x.mean((2, 3)))


class DenseLayer(nn.Module):
    def __init__(self, channels, growth):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels), conv(channels, 4 * growth, 1)
        self.norm2, self.conv2 = nn.BatchNorm2d(4 * growth), conv(4 * growth, growth, 3)

    def forward(self, x):
        found = self.conv2(self.norm2(self.conv1(self.norm1(x).relu())).relu())
        return torch.cat([x, found], 1)


class DenseNet(nn.Module):
    def __init__(self, blocks, growth, classes):
        super().__init__()
        channels = 2 * growth
        stem = nn.Conv2d(3, channels, 7, 2, 3, bias=False), nn.BatchNorm2d(channels), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        features = OrderedDict(zip(("conv0", "norm0", "relu0", "pool0"), stem, strict=True))
        for b, count in enumerate(blocks, 1):
            layers = OrderedDict()
            for index in range(1, count + 1):
                layers[f"denselayer{index}"] = DenseLayer(channels, growth)
                channels += growth
            features[f"denseblock{b}"] = nn.Sequential(layers)
            if b < len(blocks):
                parts = nn.BatchNorm2d(channels), nn.ReLU(), conv(channels, channels // 2, 1), nn.AvgPool2d(2)
                parts = OrderedDict(zip(("norm", "relu", "conv", "pool"), parts, strict=True))
                features[f"transition{b}"], channels = nn.Sequential(parts), channels // 2
        features[f"norm{len(blocks) + 1}"] = nn.BatchNorm2d(channels)
        self.features, self.classifier = nn.Sequential(features), nn.Linear(channels, classes)

    def forward(self, x):
        return self.classifier(self.features(x).relu().mean((2, 3)))


def conv_bn(*sizes, **options):
    return nn.Sequential(conv(*sizes, **options), nn.BatchNorm2d(sizes[1]), nn.ReLU6())


class InvertedResidual(nn.Module):
    def __init__(self, channels, filters, stride, widening):
        super().__init__()
        wide = channels * widening
        parts = [conv_bn(channels, wide, 1)] if widening > 1 else []
        parts += [conv_bn(wide, wide, 3, stride, groups=wide), conv(wide, filters, 1), nn.BatchNorm2d(filters)]
        self.conv, self.adds = nn.Sequential(*parts), stride == 1 and channels == filters

    def forward(self, x):
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV2(nn.Module):
    def __init__(self, classes):
        super().__init__()
        features, channels = [conv_bn(3, 32, 3, 2)], 32
        for widening, filters, count, stride in (
            (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
        ):  # fmt: skip
            for index in range(count):
                features.append(InvertedResidual(channels, filters, 1 if index else stride, widening))
                channels = filters
        self.features = nn.Sequential(*features, conv_bn(channels, 1280, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class EncoderBlock(nn.Module):
    def __init__(self, heads, dim, hidden):
        super().__init__()
        self.ln_1, self.self_attention = nn.LayerNorm(dim, 1e-6), nn.MultiheadAttention(dim, heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(dim, 1e-6)
        parts = nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(0.0), nn.Linear(hidden, dim), nn.Dropout(0.0)
        self.mlp = nn.Sequential(*parts)

    def forward(self, x):
        z = self.ln_1(x)
        x = x + self.self_attention(z, z, z, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Encoder(nn.Module):
    def __init__(self, length, layers, heads, dim, hidden):
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.randn(1, length, dim) * 0.02)
        blocks = {f"encoder_layer_{index}": EncoderBlock(heads, dim, hidden) for index in range(layers)}
        self.layers, self.ln = nn.Sequential(OrderedDict(blocks)), nn.LayerNorm(dim, 1e-6)

    def forward(self, x):
        return self.ln(self.layers(x + self.pos_embedding))


class VisionTransformer(nn.Module):
    def __init__(self, size, patch, layers, heads, dim, classes):
        super().__init__()
        self.class_token = nn.Parameter(torch.randn(1, 1, dim))
        self.conv_proj = nn.Conv2d(3, dim, patch, patch)
        self.encoder = Encoder((size // patch) ** 2 + 1, layers, heads, dim, 4 * dim)
        self.heads = nn.Sequential(OrderedDict(head=nn.Linear(dim, classes)))

    def forward(self, x):
        x = self.conv_proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], 1)
        return self.heads(self.encoder(x)[:, 0])
