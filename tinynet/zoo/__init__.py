"""Known architectures, each a screen of the package's own layers: to train, or to load weights that others trained.

model = tn.zoo.resnet(18, classes=10, input_shape=(32, 32, 3), small_images=True)
model = tn.zoo.densenet()                        DenseNet-121, as CheXNet has it
tn.interop.from_torch(model, network)            torchvision's network of that kind, or its state dict

The functions take their options as the papers name them.  In all of them `classes` is how many logits come out,
`input_shape` that of an image (H, W, C), `seed` and `dtype` are Sequential's.  Images go through torchvision's networks
with their channels normalised: (x - mean) / deviation, for those of ImageNet with the means 0.485, 0.456, 0.406 and the
deviations 0.229, 0.224, 0.225 of red, green, blue in [0, 1].
"""

from tinynet.zoo.alexnet import alexnet
from tinynet.zoo.densenet import densenet
from tinynet.zoo.lenet import lenet5
from tinynet.zoo.mobilenet import mobilenet_v2
from tinynet.zoo.resnet import resnet
from tinynet.zoo.transformers import bert, gpt2, vit
from tinynet.zoo.vgg import vgg

__all__ = ["alexnet", "bert", "densenet", "gpt2", "lenet5", "mobilenet_v2", "resnet", "vgg", "vit"]
