"""Autoencoders, by class: what they take, and which of their modules were read and mix no rows themselves.

What does mix rows (convolutions, group norms, attention) is found by looking. Every other module is listed here by its
exact class, or the autoencoder is refused by the name of that part. To add one, add its entry, and a case to the tests.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Autoencoder:
    """Facts of one class; the names are those of the classes of its modules, after ``prefix``.

    Attributes:
        takes: the dimensions of what it encodes.
        composed: modules that only run the modules in them.
        pointwise: modules without modules in them that treat each position alone, or stay in a latent row.
        tokens: modules that flatten rows into tokens before their attention: nothing smaller can be given all rows.
    """

    takes: str
    prefix: str = ""
    composed: str = ""
    pointwise: str = ""
    tokens: str = ""

    def named(self, names: str) -> set[str]:
        """The exact classes."""
        return {f"{self.prefix}{name}" for name in names.split()}


_CONV = "CausalConv3d"  # around a convolution that does not reach over rows
_UNET = "Encoder3D Decoder3D DownBlock3D UpBlock3D"
_RESAMPLED = "Encoder3d Decoder3d MidBlock ResidualBlock Resample Upsample"
_LTX = "Encoder3d Decoder3d DownBlock3D MidBlock3d UpBlock3d Downsampler3d Upsampler3d ResnetBlock3d"
_PARTS = (  # of several, or named otherwise than their autoencoder
    Autoencoder("", "", "ModuleList Sequential Encoder Decoder ResBlock", "RMSNorm Timesteps"),
    Autoencoder("", "", "DownEncoderBlock2D UpDecoderBlock2D UNetMidBlock2D ResnetBlock2D Downsample2D Upsample2D"),
    Autoencoder("", "", "PixArtAlphaCombinedTimestepSizeEmbeddings TimestepEmbedding LTXVideo095DownBlock3D"),
    Autoencoder("", "", "CogVideoXCausalConv3d", "AvgDown3D DupUp3D FourierFeatures PerChannelRMSNorm"),
)
AUTOENCODERS: dict[str, Autoencoder] = {
    "AutoencoderKL": Autoencoder("BCHW"),
    "AutoencoderKLFlux2": Autoencoder("BCHW"),
    "AutoencoderKLHunyuanImage": Autoencoder(
        "BCHW", "HunyuanImage", "Encoder2D Decoder2D MidBlock ResnetBlock Downsample Upsample"
    ),
    "AutoencoderDC": Autoencoder("BCHW", "", "DCDownBlock2d DCUpBlock2d EfficientViTBlock GLUMBConv"),
    "AutoencoderKLCogVideoX": Autoencoder(
        "BCFHW", "CogVideoX", f"{_UNET} MidBlock3D ResnetBlock3D SpatialNorm3D Upsample3D"
    ),
    "AutoencoderKLHunyuanVideo": Autoencoder(
        *("BCFHW", "HunyuanVideo", f"{_UNET} {_CONV} ResnetBlockCausal3D DownsampleCausal3D UpsampleCausal3D"),
        tokens="MidBlock3D",
    ),
    "AutoencoderKLHunyuanVideo15": Autoencoder(
        "BCFHW", "HunyuanVideo15", f"{_UNET} MidBlock ResnetBlock Downsample Upsample", "RMS_norm"
    ),
    "AutoencoderKLLTXVideo": Autoencoder("BCFHW", "LTXVideo", f"{_LTX} {_CONV}"),
    "AutoencoderKLLTX2Video": Autoencoder("BCFHW", "LTX2Video", f"{_LTX} {_CONV}"),
    "AutoencoderKLMochi": Autoencoder("BCFHW", "Mochi", f"{_UNET} MidBlock3D ResnetBlock3D ChunkedGroupNorm3D"),
    "AutoencoderKLQwenImage": Autoencoder("BCFHW", "QwenImage", f"{_RESAMPLED} UpBlock", "RMS_norm"),
    "AutoencoderKLQwenImage21": Autoencoder(
        *("BCFHW", "QwenImage21", f"{_RESAMPLED} ResidualDownBlock ResidualUpBlock"),
        pointwise="RMS_norm AvgDown3D DupUp3D",
    ),
    "AutoencoderKLWan": Autoencoder(
        "BCFHW", "Wan", f"{_RESAMPLED} UpBlock ResidualDownBlock ResidualUpBlock", "RMS_norm"
    ),
}
_ALL = (*_PARTS, *AUTOENCODERS.values())
COMPOSED = frozenset(name for known in _ALL for name in known.named(known.composed))
POINTWISE = frozenset(name for known in _ALL for name in known.named(known.pointwise))
TOKENS_INSIDE = frozenset(name for known in _ALL for name in known.named(known.tokens))
