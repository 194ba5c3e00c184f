"""The shared backbone as numbers: its families, the tensors that each has, and the values a seed gives them."""

from commonroot.common.backbone.factors import FactorsSpec
from commonroot.common.backbone.inputs import ImageInput, Input, RowInput, SequenceInput, TokenInput
from commonroot.common.backbone.installed import InstalledSpec
from commonroot.common.backbone.mlp import MlpSpec
from commonroot.common.backbone.ngrams import NgramsSpec
from commonroot.common.backbone.pretrained import PretrainedSpec
from commonroot.common.backbone.rescnn import RescnnSpec
from commonroot.common.backbone.resmlp import ResmlpSpec
from commonroot.common.backbone.spec import BackboneSpec, Shapes, families
from commonroot.common.backbone.tcn import TcnSpec
from commonroot.common.backbone.transformer import TransformerSpec

__all__ = [
    "BackboneSpec",
    "FactorsSpec",
    "ImageInput",
    "Input",
    "InstalledSpec",
    "MlpSpec",
    "NgramsSpec",
    "PretrainedSpec",
    "RescnnSpec",
    "ResmlpSpec",
    "RowInput",
    "SequenceInput",
    "Shapes",
    "TcnSpec",
    "TokenInput",
    "TransformerSpec",
    "families",
]
