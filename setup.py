"""What pyproject.toml has no settled words for: the codec's compiled passes."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "common.codec._kernels",
            sources=["common/codec/kernels.c"],
            # Contraction would round a product and a sum at once, where there is an instruction for it.
            extra_compile_args=["-O3", "-ffp-contract=off"],
            # Where there is no C compiler: the codec makes the same bytes without it, at half the speed.
            optional=True,
        )
    ]
)
