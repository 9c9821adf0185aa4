"""The clients' networks and how they start (paper, section 4.1).

network.py    dilated ResNet, DeepLab head, voting layers, starts
pretrain.py   the 'scenes' start: a backbone trained on rendered objects
"""
