"""What pyproject.toml has no settled words for: the codec's compiled passes."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "common.codec._kernels",
            sources=["common/codec/kernels.c", "common/codec/frames.c"],
            depends=["common/codec/compiler.h", "common/codec/fse.h", "common/codec/huffman.h"],
            # Each operation on a float rounds by itself: no product and sum in one, whatever CFLAGS say.
            extra_compile_args=["-O3", "-fno-fast-math", "-ffp-contract=off"],
            # Where there is no C compiler: the codec makes the same codes without it, more slowly.
            optional=True,
        )
    ]
)
