"""The package's own backbones."""

from matfl.models.backbone import BACKBONES
from matfl.models.resnets import RESNETS
from matfl.models.timm_backbone import TIMM

for _backbone in (*RESNETS, TIMM):
    BACKBONES.register(_backbone)
